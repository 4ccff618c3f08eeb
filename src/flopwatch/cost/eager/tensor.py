"""Tensors that have only a size, and the nodes of a backward pass over them.

A storage lives as long as something refers to it, exactly as in torch: Python's reference counts are the lifetimes,
and every allocation and release goes onto a Tape.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Final

from flopwatch.cost.eager.tape import Tape

FLOATS: Final = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8")
ELEMENT_BYTES: Final = {
    "fp64": 8,
    "fp32": 4,
    "tf32": 4,
    "bf16": 2,
    "fp16": 2,
    "fp8": 1,
    "int8": 1,
    "bool": 1,
    "int64": 8,
}
LAST: Final = 1 << 62  # leaves accumulate before any other node runs, as torch orders them

Shape = tuple[int, ...]
Gradients = tuple["Tensor | None", ...]
Saved = list["Tensor | None"]
Backward = Callable[[Gradients, Saved], Gradients]


class Storage:
    """One block of memory on the tape, released when the last tensor that uses it is gone."""

    __slots__ = ("block", "tape")

    def __init__(self, tape: Tape, n_bytes: int, part: str) -> None:
        self.tape = tape
        self.block = tape.allocate(n_bytes, part)

    def __del__(self) -> None:
        self.tape.release(self.block)


class Tensor:
    """Shape, strides and dtype over a storage; `node` is what made it, when a gradient is wanted."""

    __slots__ = ("dtype", "is_view", "node", "output", "shape", "storage", "strides")

    def __init__(self, storage: Storage, shape: Shape, strides: Shape, dtype: str) -> None:
        self.storage = storage
        self.shape = shape
        self.strides = strides
        self.dtype = dtype
        self.node: Node | None = None
        self.output = 0
        self.is_view = False

    def alias(self, shape: Shape | None = None, strides: Shape | None = None) -> Tensor:
        """Another tensor over the same storage, without a history; a view where a shape is given."""
        other = Tensor(self.storage, self.shape if shape is None else shape, strides or self.strides, self.dtype)
        other.is_view = self.is_view or shape is not None
        return other

    def as_part(self, part: str) -> Tensor:
        """This tensor, its block now known to be `part`."""
        self.storage.tape.blocks[self.storage.block].part = part
        return self


class Node:
    """One step of the backward pass: where its gradients go, what it saved, how it computes them."""

    __slots__ = ("backward", "edges", "grad", "inputs", "module", "n_outputs", "name", "saved", "sequence")

    def __init__(self, name: str, module: str, sequence: int) -> None:
        self.name = name
        self.module = module
        self.sequence = sequence
        self.edges: tuple[tuple[Node, int] | None, ...] = ()
        self.inputs: tuple[tuple[Shape, str], ...] = ()
        self.saved: tuple[Tensor | Holder | None, ...] = ()
        self.backward: Backward | None = None  # None: a leaf, which keeps its gradient
        self.n_outputs = 1
        self.grad: Tensor | None = None


class Holder:
    """Stands for a tensor that a checkpointed part saved: empty until that part is computed again."""

    __slots__ = ("__weakref__", "frame", "value")

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.value: Tensor | None = None


class Packed:
    """What an operator saved before it ran."""

    __slots__ = ("tensors",)

    def __init__(self, tensors: tuple[Tensor | Holder | None, ...]) -> None:
        self.tensors = tensors


class Frame:
    """One checkpointed part: how to compute it again, and who waits for what it saves."""

    def __init__(
        self,
        compute: Callable[[Tensor], Tensor],
        x: Tensor,
        autocast_dtype: str | None,
        random_state: Tensor | None,
    ) -> None:
        self.compute = compute
        self.x = x
        self.autocast_dtype = autocast_dtype
        self.random_state = random_state
        self.holders: list[weakref.ref[Holder]] = []
        self.n_recomputed: int | None = None


def count(shape: Shape) -> int:
    """Elements of a tensor of that shape."""
    n = 1
    for size in shape:
        n *= size
    return n


def contiguous_strides(shape: Shape) -> Shape:
    """Strides of a contiguous tensor."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def is_dense(x: Tensor) -> bool:
    """Whether the elements fill a block of memory without holes or overlap, in any order of the axes."""
    step = 1
    for stride, size in sorted((stride, size) for stride, size in zip(x.strides, x.shape, strict=True) if size > 1):
        if stride != step:
            return False
        step *= size
    return True


def dense_strides(x: Tensor) -> Shape:
    """The strides that an elementwise operator gives its result: the input's own order of axes, without holes.

    An axis of stride 0 stays where it is, as torch's infer_dense_strides has it.
    """
    if is_dense(x):
        return x.strides
    order = list(range(len(x.shape)))[::-1]  # innermost first
    for place in range(1, len(order)):
        for below in range(place - 1, -1, -1):
            inner, outer = order[below], order[below + 1]
            if not x.strides[inner] or not x.strides[outer]:
                continue
            if x.strides[inner] <= x.strides[outer]:
                break
            order[below], order[below + 1] = outer, inner
    strides, step = [0] * len(order), 1
    for axis in order:
        strides[axis] = step
        step *= max(x.shape[axis], 1)
    return tuple(strides)


def view_strides(x: Tensor, shape: Shape) -> Shape | None:
    """Strides under which the storage of `x` reads as `shape`; None when it must be copied first.

    Old axes are grouped while each is contiguous with the next; every new axis must lie within one group.
    """
    if count(shape) == 0:
        return contiguous_strides(shape)
    groups: list[tuple[int, int]] = []  # (elements, stride of the innermost axis), innermost group first
    for size, stride in zip(reversed(x.shape), reversed(x.strides), strict=True):
        if size == 1:
            continue
        if groups and stride == groups[-1][0] * groups[-1][1]:
            groups[-1] = (groups[-1][0] * size, groups[-1][1])
        else:
            groups.append((size, stride))
    strides: list[int] = []
    place, used = 0, 1
    for size in reversed(shape):
        while place < len(groups) and used == groups[place][0]:
            place, used = place + 1, 1
        step = groups[place][1] * used if place < len(groups) else 1
        strides.append(step)
        if size == 1:
            continue
        used *= size
        if place >= len(groups) or groups[place][0] % used:
            return None
    return tuple(reversed(strides))


def one(x: Tensor | None) -> Tensor:
    """`x`, which is known to be there."""
    assert x is not None
    return x
