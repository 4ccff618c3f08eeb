"""Views and copies: no work, and memory only where strides do not allow a view."""

from __future__ import annotations

from flopwatch.cost.eager.engine import Eager, pointwise
from flopwatch.cost.eager.tensor import (
    ELEMENT_BYTES,
    Gradients,
    Saved,
    Shape,
    Tensor,
    contiguous_strides,
    one,
    view_strides,
)


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
    result = transposed(x, first, second)
    e.record("transpose", result, (x,), lambda grads, _: (transposed(one(grads[0]), first, second),))
    return result


def transposed(x: Tensor, first: int, second: int) -> Tensor:
    """Two axes swapped, without a history."""
    shape, strides = list(x.shape), list(x.strides)
    shape[first], shape[second] = shape[second], shape[first]
    strides[first], strides[second] = strides[second], strides[first]
    return x.alias(tuple(shape), tuple(strides))


def expand(e: Eager, x: Tensor, shape: Shape) -> Tensor:
    """`x` repeated along axes of size 1, without memory; its gradient is summed."""
    result = expanded(x, shape)
    e.record("expand", result, (x,), lambda grads, _: (grads[0],))
    return result


def expanded(x: Tensor, shape: Shape) -> Tensor:
    """`x` with axes of stride 0, without a history."""
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
