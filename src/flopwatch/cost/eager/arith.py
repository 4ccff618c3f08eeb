"""Elementwise operators: what each allocates, saves for its backward, and allocates there."""

from __future__ import annotations

from flopwatch.cost.eager.engine import Eager, pointwise
from flopwatch.cost.eager.matmul import widened
from flopwatch.cost.eager.tensor import Gradients, Saved, Tensor, one


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
