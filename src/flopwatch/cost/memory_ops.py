"""Operators on tensors without data: what each allocates, saves for its backward, and allocates there.

Each follows torch's own (derivatives.yaml and the kernels' sources); the agreement test compares them with runs of
the reference network, allocation by allocation.
"""

from __future__ import annotations

from flopwatch.cost.memory_eager import (
    ELEMENT_BYTES,
    Eager,
    Gradients,
    Shape,
    Tensor,
    contiguous_strides,
    dense_strides,
    view_strides,
)

Saved = list[Tensor | None]
FLOATS = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8")


def pointwise(e: Eager, name: str, *inputs: Tensor, dtype: str | None = None) -> Tensor:
    """The result of an elementwise operator on `inputs`, broadcast, without a history."""
    e.tape.op = name
    first = max(inputs, key=lambda x: len(x.shape))
    shape = _broadcast(*inputs)
    wide = dtype or max((x.dtype for x in inputs), key=lambda name: ELEMENT_BYTES[name] if name in FLOATS else 0)
    like = next((x for x in inputs if x.shape == shape), first)
    strides = dense_strides(like) if like.shape == shape else contiguous_strides(shape)
    return e.empty(shape, wide, strides=strides)


def _broadcast(*inputs: Tensor) -> Shape:
    n_axes = max(len(x.shape) for x in inputs)
    padded = [(1,) * (n_axes - len(x.shape)) + x.shape for x in inputs]
    return tuple(max(sizes) for sizes in zip(*padded, strict=True))


def one(x: Tensor | None) -> Tensor:
    """`x`, which is known to be there."""
    assert x is not None
    return x


# Views: no memory, a history.


def view(e: Eager, x: Tensor, shape: Shape, strides: Shape, name: str = "view") -> Tensor:
    """`x` read as another shape; its gradient goes back as a view where it can, else as a copy."""
    result = x.alias(shape, strides)
    old = x.shape
    e.record(name, result, (x,), lambda grads, _: (reshape_plain(e, one(grads[0]), old),))
    return result


def reshape_plain(e: Eager, x: Tensor, shape: Shape) -> Tensor:
    """`x` as `shape` without a history: a view where its strides allow one, else a copy."""
    strides = view_strides(x, shape)
    if strides is not None:
        return x.alias(shape, strides)
    e.tape.op = "clone"
    return e.empty(x.shape, x.dtype).alias(shape, contiguous_strides(shape))


def reshape(e: Eager, x: Tensor, shape: Shape) -> Tensor:
    """`x` as `shape`: a view, or a contiguous copy."""
    strides = view_strides(x, shape)
    return view(e, x if strides is not None else clone(e, x), shape, strides or contiguous_strides(shape))


def transpose(e: Eager, x: Tensor, first: int, second: int) -> Tensor:
    """Two axes swapped."""
    result = _transposed(x, first, second)
    e.record("transpose", result, (x,), lambda grads, _: (_transposed(one(grads[0]), first, second),))
    return result


def _transposed(x: Tensor, first: int, second: int) -> Tensor:
    shape, strides = list(x.shape), list(x.strides)
    shape[first], shape[second] = shape[second], shape[first]
    strides[first], strides[second] = strides[second], strides[first]
    return x.alias(tuple(shape), tuple(strides))


def expand(e: Eager, x: Tensor, shape: Shape) -> Tensor:
    """`x` repeated along axes of size 1, without memory; its gradient is summed."""
    result = _expanded(x, shape)
    e.record("expand", result, (x,), lambda grads, _: (grads[0],))
    return result


def _expanded(x: Tensor, shape: Shape) -> Tensor:
    padded = (1,) * (len(shape) - len(x.shape)) + x.shape
    steps = (0,) * (len(shape) - len(x.shape)) + x.strides
    strides = tuple(0 if old != new else step for old, new, step in zip(padded, shape, steps, strict=True))
    return x.alias(shape, strides)


def narrow(e: Eager, x: Tensor, axis: int, length: int) -> Tensor:
    """`length` places of an axis; its gradient is a whole tensor with zeros elsewhere."""
    shape = list(x.shape)
    shape[axis] = length
    result = x.alias(tuple(shape), x.strides)
    old = x.shape

    def backward(grads: Gradients, _: Saved) -> Gradients:
        e.tape.op = "slice_backward"
        return (e.empty(old, one(grads[0]).dtype),)

    e.record("slice", result, (x,), backward)
    return result


def split(e: Eager, x: Tensor, sizes: tuple[int, ...], axis: int) -> tuple[Tensor, ...]:
    """`x` in pieces along an axis; their gradients are joined again."""
    pieces = []
    for size in sizes:
        shape = list(x.shape)
        shape[axis] = size
        pieces.append(x.alias(tuple(shape), x.strides))
    old = x.shape

    def backward(grads: Gradients, _: Saved) -> Gradients:
        e.tape.op = "cat"
        zeros = [e.empty(p, "fp32") for p, grad in zip(shapes, grads, strict=True) if grad is None]
        joined = e.empty(old, next(grad.dtype for grad in grads if grad is not None))
        del zeros
        return (joined,)

    shapes = [piece.shape for piece in pieces]
    e.record("split", tuple(pieces), (x,), backward)
    return tuple(pieces)


# Copies.


def clone(e: Eager, x: Tensor) -> Tensor:
    """A contiguous copy."""
    e.tape.op = "clone"
    result = e.empty(x.shape, x.dtype)
    e.record("clone", result, (x,), lambda grads, _: (grads[0],))
    return result


def to(e: Eager, x: Tensor, dtype: str) -> Tensor:
    """`x` in `dtype`; itself when it already is."""
    if x.dtype == dtype:
        return x
    result = pointwise(e, "to", x, dtype=dtype)
    e.record("to", result, (x,), lambda grads, _: (grads[0],))
    return result


def cat(e: Eager, pieces: tuple[Tensor, ...], axis: int) -> Tensor:
    """Tensors joined along an axis; each gets a view of the gradient."""
    e.tape.op = "cat"
    shape = list(pieces[0].shape)
    shape[axis] = sum(piece.shape[axis] for piece in pieces)
    dtype = max((piece.dtype for piece in pieces), key=ELEMENT_BYTES.__getitem__)
    result = e.empty(tuple(shape), dtype)
    shapes = [piece.shape for piece in pieces]

    def backward(grads: Gradients, _: Saved) -> Gradients:
        grad = one(grads[0])
        return tuple(grad.alias(shape, grad.strides) for shape in shapes)

    e.record("cat", result, pieces, backward)
    return result


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
    """[..., I] @ [O, I]^T -> [..., O]; saves its input, where the weight is trained."""
    bias = None if bias is None else cast(e, bias)
    weight, x = cast(e, weight), cast(e, x)
    rows = reshape(e, x, (_n_rows(x), x.shape[-1]))
    has_bias = bias is not None
    inputs = (rows, weight, bias)
    packed = e.save(inputs, (rows if weight.node else None, weight if rows.node else None))
    out = _mm(e, (rows.shape[0], weight.shape[0]), rows, weight)

    def backward(grads: Gradients, saved: Saved) -> Gradients:
        grad, (x, w) = one(grads[0]), saved
        grad_w = None
        if x is not None and not has_bias:  # mm computes the weight's gradient first, addmm the input's
            grad_w = _mm(e, (grad.shape[1], x.shape[1]), _transposed(grad, 0, 1), x)
        grad_x = None if w is None else _mm(e, (grad.shape[0], w.shape[1]), grad, w)
        if x is not None and has_bias:
            grad_w = _mm(e, (grad.shape[1], x.shape[1]), _transposed(grad, 0, 1), x)
        return grad_x, grad_w, grad

    e.record("addmm" if has_bias else "mm", out, inputs, backward, packed)
    shape = (*x.shape[:-1], weight.shape[0])
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
        grad_a = None if b is None else _mm(e, (*grad.shape[:2], b.shape[1]), grad, _transposed(b, 1, 2))
        grad_b = None if a is None else _mm(e, (a.shape[0], a.shape[2], grad.shape[2]), _transposed(a, 1, 2), grad)
        return grad_a, grad_b

    e.record("bmm", out, (a3, b3), backward, (a3 if b3.node else None, b3 if a3.node else None))
    return view(e, out, (batch, heads, m, n), contiguous_strides((batch, heads, m, n)))


# Elementwise.


def add(e: Eager, a: Tensor, b: Tensor) -> Tensor:
    """a + b; saves nothing."""
    result = pointwise(e, "add", a, b)
    e.record("add", result, (a, b), lambda grads, _: (grads[0], grads[0]))
    return result


def sub(e: Eager, a: Tensor, b: Tensor) -> Tensor:
    """a - b; saves nothing."""
    result = pointwise(e, "sub", a, b)

    def backward(grads: Gradients, _: Saved) -> Gradients:
        return grads[0], pointwise(e, "neg", one(grads[0]))

    e.record("sub", result, (a, b), backward)
    return result


def add_number(e: Eager, x: Tensor) -> Tensor:
    """x + c; saves nothing."""
    result = pointwise(e, "add", x)
    e.record("add", result, (x,), lambda grads, _: (grads[0],))
    return result


def scale(e: Eager, x: Tensor, name: str = "mul") -> Tensor:
    """x * c or x / c; saves nothing that counts."""
    result = pointwise(e, name, x)
    e.record(name, result, (x,), lambda grads, _: (pointwise(e, name, one(grads[0])),))
    return result


def mul(e: Eager, a: Tensor, b: Tensor) -> Tensor:
    """a * b; saves each where the other is trained."""
    result = pointwise(e, "mul", a, b)

    def backward(grads: Gradients, saved: Saved) -> Gradients:
        grad, (a, b) = one(grads[0]), saved
        grad_a = None if b is None else pointwise(e, "mul", grad, b)
        grad_b = None if a is None else pointwise(e, "mul", grad, a)
        return grad_a, grad_b

    e.record("mul", result, (a, b), backward, (a if b.node else None, b if a.node else None))
    return result


def div(e: Eager, a: Tensor, b: Tensor) -> Tensor:
    """a / b; saves both."""
    result = pointwise(e, "div", a, b)

    def backward(grads: Gradients, saved: Saved) -> Gradients:
        grad, a, b = one(grads[0]), one(saved[0]), one(saved[1])
        grad_a = pointwise(e, "div", grad, b)
        once = pointwise(e, "div", a, b)
        twice = pointwise(e, "div", once, b)
        del once
        negated = pointwise(e, "neg", grad)
        return grad_a, pointwise(e, "mul", negated, twice)

    e.record("div", result, (a, b), backward, (a, b))
    return result


def sqrt(e: Eager, x: Tensor) -> Tensor:
    """The square root; saves its result."""
    result = pointwise(e, "sqrt", x)

    def backward(grads: Gradients, saved: Saved) -> Gradients:
        twice = pointwise(e, "mul", one(saved[0]))
        return (pointwise(e, "div", one(grads[0]), twice),)

    e.record("sqrt", result, (x,), backward, (result,))
    return result


def rsqrt(e: Eager, x: Tensor) -> Tensor:
    """1 / square root; saves its result."""
    result = pointwise(e, "rsqrt", x)

    def backward(grads: Gradients, saved: Saved) -> Gradients:
        scaled = pointwise(e, "mul", one(grads[0]))
        cube = pointwise(e, "pow", one(saved[0]))
        return (pointwise(e, "mul", scaled, cube),)

    e.record("rsqrt", result, (x,), backward, (result,))
    return result


def power(e: Eager, x: Tensor) -> Tensor:
    """x to a constant power; saves x."""
    x = widened(e, x, "pow")
    result = pointwise(e, "pow", x)

    def backward(grads: Gradients, saved: Saved) -> Gradients:
        lower = pointwise(e, "pow", one(saved[0]))
        scaled = pointwise(e, "mul", lower)
        return (pointwise(e, "mul", one(grads[0]), scaled),)

    e.record("pow", result, (x,), backward, (x,))
    return result


def from_input(e: Eager, name: str, x: Tensor) -> Tensor:
    """An activation that saves its input and computes its gradient in one kernel: gelu, silu."""
    result = pointwise(e, name, x)

    def backward(grads: Gradients, _: Saved) -> Gradients:
        return (pointwise(e, f"{name}_backward", one(grads[0])),)

    e.record(name, result, (x,), backward, (x,))
    return result


def from_result(e: Eager, name: str, x: Tensor) -> Tensor:
    """An activation that saves its result and computes its gradient in one kernel: tanh, relu, sigmoid, softmax."""
    x = widened(e, x, name)
    result = pointwise(e, name, x)

    def backward(grads: Gradients, _: Saved) -> Gradients:
        e.tape.op = f"{name}_backward"
        # CUDA's softmax backward multiplies gradient and result first (SoftMax.cu), in a tensor of its own.
        product = pointwise(e, e.tape.op, one(grads[0])) if name == "softmax" and _is_cuda_kernel(e) else None
        result = pointwise(e, f"{name}_backward", one(grads[0]))
        del product
        return (result,)

    e.record(name, result, (x,), backward, (result,))
    return result


def _is_cuda_kernel(e: Eager) -> bool:
    return e.sees_kernels and e.device_type == "cuda"


def masked_fill_(e: Eager, x: Tensor, mask: Tensor) -> Tensor:
    """`x` with masked places overwritten; saves the mask."""
    e.tape.op = "masked_fill_"
    result = x.alias()

    def backward(grads: Gradients, _: Saved) -> Gradients:
        return (pointwise(e, "masked_fill", one(grads[0])),)

    e.record("masked_fill_", result, (x,), backward, (mask,))
    return result


# Reductions and norms.


def mean_last(e: Eager, x: Tensor) -> Tensor:
    """The mean over the last axis, kept; saves nothing."""
    e.tape.op = "mean"
    result = e.empty((*x.shape[:-1], 1), x.dtype)
    shape = x.shape

    def backward(grads: Gradients, _: Saved) -> Gradients:
        e.tape.op = "div"
        return (e.empty(shape, one(grads[0]).dtype),)

    e.record("mean", result, (x,), backward)
    return result


def var_last(e: Eager, x: Tensor) -> Tensor:
    """The variance over the last axis, kept; saves its input."""
    e.tape.op = "var"
    result = e.empty((*x.shape[:-1], 1), x.dtype)

    def backward(grads: Gradients, saved: Saved) -> Gradients:
        x, grad = one(saved[0]), one(grads[0])
        e.tape.op = "mean"
        mean = e.empty(grad.shape, x.dtype)
        centred = pointwise(e, "sub", x, mean)
        scaled = pointwise(e, "mul", grad)
        return (pointwise(e, "mul", scaled, centred),)

    e.record("var", result, (x,), backward, (x,))
    return result


def layer_norm(e: Eager, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """LayerNorm in one kernel; saves its input, mean and 1/deviation."""
    x = widened(e, x, "layer_norm")
    e.tape.op = "native_layer_norm"
    result = e.empty(x.shape, x.dtype)
    statistics = x.dtype if e.device_type == "cpu" else "fp32"
    mean = e.empty((*x.shape[:-1], 1), statistics)
    deviation = e.empty((*x.shape[:-1], 1), statistics)
    width = weight.shape

    def backward(grads: Gradients, _: Saved) -> Gradients:
        grad = one(grads[0])
        e.tape.op = "native_layer_norm_backward"
        return (
            e.empty(grad.shape, grad.dtype),
            None if weight_edge is None else e.empty(width, grad.dtype),
            None if bias is None else e.empty(width, grad.dtype),
        )

    weight_edge = weight.node
    e.record("native_layer_norm", result, (x, weight, bias), backward, (x, mean, deviation, weight))
    return result


def embedding(e: Eager, table: Tensor, ids: Tensor) -> Tensor:
    """Rows of a table; saves the ids; the gradient is a whole table."""
    e.tape.op = "embedding"
    result = e.empty((*ids.shape, table.shape[1]), table.dtype)
    shape = table.shape

    def backward(grads: Gradients, _: Saved) -> Gradients:
        e.tape.op = "embedding_dense_backward"
        return (e.empty(shape, one(grads[0]).dtype),)

    e.record("embedding", result, (table,), backward, (ids,))
    return result


def total(e: Eager, x: Tensor) -> Tensor:
    """The sum of all elements; its gradient is one number, expanded."""
    x = widened(e, x, "sum")
    e.tape.op = "sum"
    result = e.empty((), x.dtype)
    shape = x.shape
    e.record("sum", result, (x,), lambda grads, _: (_expanded(one(grads[0]), shape),))
    return result


def cross_entropy(e: Eager, logits: Tensor, targets: Tensor) -> Tensor:
    """The mean negative log-likelihood of rows of logits [R, V]; saves their log-softmax."""
    logits = widened(e, logits, "log_softmax")
    e.tape.op = "log_softmax"
    scores = e.empty(logits.shape, logits.dtype, "logits")

    def softmax_backward(grads: Gradients, _: Saved) -> Gradients:
        e.tape.op = "log_softmax_backward"
        grad = one(grads[0])
        return (e.empty(grad.shape, grad.dtype, "logits"),)

    e.record("log_softmax", scores, (logits,), softmax_backward, (scores,))
    e.tape.op = "nll_loss"
    loss, weight = e.empty((), logits.dtype), e.empty((), logits.dtype)
    shape, dtype = logits.shape, logits.dtype

    def nll_backward(_: Gradients, _saved: Saved) -> Gradients:
        e.tape.op = "nll_loss_backward"
        return (e.empty(shape, dtype, "logits"),)

    e.record("nll_loss", loss, (scores,), nll_backward, (scores, targets, weight))
    return loss


def rms_norm(e: Eager, x: Tensor, weight: Tensor) -> Tensor:
    """RMSNorm in one call: a kernel of its own on CUDA, single operators in fp32 elsewhere."""
    if e.device_type == "cuda":
        return _fused_rms_norm(e, x, weight)
    dtype = x.dtype
    wide = to(e, x, "fp32") if dtype in {"bf16", "fp16"} else x
    normed = mul(e, wide, rsqrt(e, mean_last(e, power(e, wide))))  # eps is added in place
    return to(e, mul(e, normed, weight), dtype)


def _fused_rms_norm(e: Eager, x: Tensor, weight: Tensor) -> Tensor:
    x = widened(e, x, "rms_norm")
    e.tape.op = "rms_norm"
    result = e.empty(x.shape, x.dtype)
    deviation = e.empty((*x.shape[:-1], 1), "fp32")
    width = weight.shape

    def backward(grads: Gradients, _: Saved) -> Gradients:
        grad = one(grads[0])
        e.tape.op = "rms_norm_backward"
        return e.empty(grad.shape, grad.dtype), e.empty(width, grad.dtype)

    e.record("rms_norm", result, (x, weight), backward, (x, deviation, weight))
    return result


def topk(e: Eager, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row and their places; saves the places."""
    e.tape.op = "topk"
    values, places = e.empty((*x.shape[:-1], k), x.dtype), e.empty((*x.shape[:-1], k), "int64")
    shape = x.shape

    def backward(grads: Gradients, _: Saved) -> Gradients:
        e.tape.op = "topk_backward"
        return (e.empty(shape, one(grads[0]).dtype),)

    e.record("topk", values, (x,), backward, (places,))
    return values, places


def take_rows(e: Eager, x: Tensor, places: Tensor) -> Tensor:
    """Rows of `x` by number; saves the numbers; the gradient is a whole tensor of zeros, added into."""
    e.tape.op = "index"
    result = e.empty((*places.shape, *x.shape[1:]), x.dtype)
    shape = x.shape

    def backward(grads: Gradients, _: Saved) -> Gradients:
        e.tape.op = "index_backward"
        return (e.empty(shape, one(grads[0]).dtype),)

    e.record("index", result, (x,), backward, (places,))
    return result
