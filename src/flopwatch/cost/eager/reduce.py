"""Norms, lookups, sums and the loss."""

from __future__ import annotations

from flopwatch.cost.eager.arith import mul, power, rsqrt
from flopwatch.cost.eager.engine import Eager, pointwise
from flopwatch.cost.eager.matmul import widened
from flopwatch.cost.eager.tensor import Gradients, Saved, Tensor, one
from flopwatch.cost.eager.views import expanded, to


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


def embedding(e: Eager, table: Tensor, ids: Tensor, *, dtype: str) -> Tensor:
    """Rows of a table, read as `dtype`; saves the ids; the gradient is a whole table."""
    e.tape.op = "embedding"
    result = e.empty((*ids.shape, table.shape[1]), dtype)
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
    e.record("sum", result, (x,), lambda grads, _: (expanded(one(grads[0]), shape),))
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
