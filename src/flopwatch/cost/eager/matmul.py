"""Matmuls, and what autocast makes of their operands."""

from __future__ import annotations

from flopwatch.cost.eager.engine import Eager
from flopwatch.cost.eager.tensor import Gradients, Saved, Shape, Tensor, contiguous_strides, one
from flopwatch.cost.eager.views import reshape, to, transposed, view


def cast(e: Eager, x: Tensor) -> Tensor:
    """`x` as autocast hands it to a matmul: in its dtype, a trained weight's copy kept until autocast ends."""
    dtype = e.autocast_dtype
    if dtype is None or x.dtype == dtype:
        return x
    is_leaf = x.node is not None and x.node.backward is None
    if not is_leaf:
        return to(e, x, dtype)
    key = id(x.node)
    if key not in e.casts:
        e.casts[key] = to(e, x, dtype)
    return e.casts[key]


def widened(e: Eager, x: Tensor, name: str) -> Tensor:
    """`x` as autocast hands it to an operator that it keeps in fp32 on this kind of device."""
    fp32_on_cuda = {"layer_norm", "rms_norm", "softmax", "log_softmax", "pow", "rsqrt", "sum"}
    is_wanted = name == "log_softmax" or (e.device_type == "cuda" and name in fp32_on_cuda)
    return to(e, x, "fp32") if e.autocast_dtype and is_wanted else x


# Matmuls.


def _mm(e: Eager, shape: Shape, a: Tensor, b: Tensor) -> Tensor:
    """The result of a matmul; an operand that the library cannot read (stride 0) is copied for it first."""
    e.tape.op = "mm"
    copies = [e.empty(x.shape, x.dtype) for x in (a, b) if e.sees_kernels and not _is_readable(x)]
    result = e.empty(shape, a.dtype)
    del copies
    return result


def _is_readable(x: Tensor) -> bool:
    rows, columns = x.shape[-2:]
    down, right = x.strides[-2:]
    return (right == 1 and down >= max(1, columns)) or (down == 1 and right >= max(1, rows)) or rows * columns == 1


def linear(e: Eager, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[..., I] @ [O, I]^T -> [..., O]; saves its input, where the weight is trained.

    A weight [N, O, I] stands for N weights that share the rows out among them.
    """
    bias = None if bias is None else cast(e, bias)
    weight, x = cast(e, weight), cast(e, x)
    rows = reshape(e, x, (_n_rows(x), x.shape[-1]))
    has_bias = bias is not None
    inputs = (rows, weight, bias)
    packed = e.save(inputs, (rows if weight.node else None, weight if rows.node else None))
    out = _mm(e, (rows.shape[0], weight.shape[-2]), rows, weight)
    weight_shape = weight.shape

    def backward(grads: Gradients, saved: Saved) -> Gradients:
        grad, (x, w) = one(grads[0]), saved
        grad_w = None
        if x is not None and not has_bias:  # mm computes the weight's gradient first, addmm the input's
            grad_w = _mm(e, weight_shape, transposed(grad, 0, 1), x)
        grad_x = None if w is None else _mm(e, (grad.shape[0], w.shape[-1]), grad, w)
        if x is not None and has_bias:
            grad_w = _mm(e, weight_shape, transposed(grad, 0, 1), x)
        # The weight stands transposed in the matmul: what it gets is a view.
        return grad_x, None if grad_w is None else grad_w.alias(grad_w.shape), grad

    e.record("addmm" if has_bias else "mm", out, inputs, backward, packed)
    shape = (*x.shape[:-1], weight.shape[-2])
    return view(e, out, shape, contiguous_strides(shape))


def _n_rows(x: Tensor) -> int:
    n = 1
    for size in x.shape[:-1]:
        n *= size
    return n


def matmul(e: Eager, a: Tensor, b: Tensor) -> Tensor:
    """[B,H,M,K] @ [B,H,K,N] -> [B,H,M,N]; operands whose B and H do not merge are copied, and the copies saved."""
    a, b = cast(e, a), cast(e, b)
    batch, heads, m, k = a.shape
    n = b.shape[-1]
    a3, b3 = reshape(e, a, (batch * heads, m, k)), reshape(e, b, (batch * heads, k, n))
    out = _mm(e, (batch * heads, m, n), a3, b3)

    def backward(grads: Gradients, saved: Saved) -> Gradients:
        grad, (a, b) = one(grads[0]), saved
        grad_a = None if b is None else _mm(e, (*grad.shape[:2], b.shape[1]), grad, transposed(b, 1, 2))
        grad_b = None if a is None else _mm(e, (a.shape[0], a.shape[2], grad.shape[2]), transposed(a, 1, 2), grad)
        return grad_a, grad_b

    e.record("bmm", out, (a3, b3), backward, (a3 if b3.node else None, b3 if a3.node else None))
    return view(e, out, (batch, heads, m, n), contiguous_strides((batch, heads, m, n)))


# Elementwise.
