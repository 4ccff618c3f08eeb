"""Tensors that have only a size, and an autograd over them: what torch keeps alive, without torch.

A storage lives as long as something refers to it, exactly as in torch: Python's reference counts are the lifetimes,
and every allocation and release goes onto a Tape. Operators are in memory_ops.py.
"""

from __future__ import annotations

import contextlib
import heapq
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Final

from flopwatch.cost.memory_tape import Tape

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
_LAST: Final = 1 << 62  # leaves accumulate before any other node runs, as torch orders them

Shape = tuple[int, ...]
Gradients = tuple["Tensor | None", ...]
Backward = Callable[["Gradients", "list[Tensor | None]"], "Gradients"]


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

    __slots__ = ("dtype", "node", "output", "shape", "storage", "strides")

    def __init__(self, storage: Storage, shape: Shape, strides: Shape, dtype: str) -> None:
        self.storage = storage
        self.shape = shape
        self.strides = strides
        self.dtype = dtype
        self.node: Node | None = None
        self.output = 0

    def alias(self, shape: Shape | None = None, strides: Shape | None = None) -> Tensor:
        """Another tensor over the same storage, without a history."""
        return Tensor(self.storage, self.shape if shape is None else shape, strides or self.strides, self.dtype)

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

    def __init__(self, compute: Callable[[Tensor], Tensor], x: Tensor, autocast_dtype: str | None) -> None:
        self.compute = compute
        self.x = x
        self.autocast_dtype = autocast_dtype
        self.holders: list[weakref.ref[Holder]] = []
        self.n_recomputed: int | None = None


class _AllRecomputedError(Exception):
    """Nothing after this point of a recomputation is needed (torch's early stop)."""


class Eager:
    """One run of a program on tensors without data: its tape, its gradient mode, its backward pass.

    `sees_kernels`: the run also holds what operators use inside, and adds gradients in place, as a real run does;
    without, it is what a dispatch mode sees of a run.
    """

    def __init__(self, *, device_type: str = "cpu", sees_kernels: bool = True) -> None:
        self.tape = Tape()
        self.device_type = device_type
        self.sees_kernels = sees_kernels
        self.is_grad_enabled = True
        self.autocast_dtype: str | None = None
        self.casts: dict[int, Tensor] = {}
        self._sequence = 0
        self._frames: list[Frame] = []
        self._is_recomputing = False

    def empty(self, shape: Shape, dtype: str, part: str = "temporary", strides: Shape | None = None) -> Tensor:
        """A new tensor, contiguous unless `strides` (of a dense tensor) are given."""
        n_bytes = ELEMENT_BYTES[dtype]
        for size in shape:
            n_bytes *= size
        return Tensor(Storage(self.tape, n_bytes, part), shape, strides or contiguous_strides(shape), dtype)

    def parameter(self, shape: Shape, dtype: str, module: str, *, is_trained: bool = True) -> Tensor:
        """A leaf of the network; it collects a gradient when it is trained."""
        self.tape.op, self.tape.module = "parameter", module
        tensor = self.empty(shape, dtype, "weights")
        if is_trained:
            tensor.node = Node("AccumulateGrad", module, _LAST)
        return tensor

    @contextlib.contextmanager
    def no_grad(self) -> Iterator[None]:
        """No history is kept inside."""
        before, self.is_grad_enabled = self.is_grad_enabled, False
        try:
            yield
        finally:
            self.is_grad_enabled = before

    @contextlib.contextmanager
    def autocast(self, dtype: str | None) -> Iterator[None]:
        """Matmuls run in `dtype` inside; weights cast to it are kept until the end (None: nothing changes)."""
        before, self.autocast_dtype = self.autocast_dtype, dtype
        try:
            yield
        finally:
            self.autocast_dtype = before
            if before is None:
                self.casts.clear()

    @contextlib.contextmanager
    def module(self, name: str) -> Iterator[None]:
        """What is allocated inside belongs to the submodule `name`."""
        before = self.tape.module
        self.tape.module = f"{before}.{name}" if before else name
        try:
            yield
        finally:
            self.tape.module = before

    def record(
        self,
        name: str,
        outputs: Tensor | tuple[Tensor, ...],
        inputs: tuple[Tensor | None, ...],
        backward: Backward,
        saved: tuple[Tensor | None, ...] | Packed = (),
    ) -> None:
        """Give `outputs` a history: `backward(gradients of outputs, saved)` returns one gradient for each input."""
        if not self._wants_history(inputs):
            return
        self._sequence += 1
        node = Node(name, self.tape.module, self._sequence)
        node.edges = tuple(None if x is None or x.node is None else (x.node, x.output) for x in inputs)
        node.inputs = tuple(((), "") if x is None else (x.shape, x.dtype) for x in inputs)
        node.saved = saved.tensors if isinstance(saved, Packed) else self._pack_all(saved)
        node.backward = backward
        several = outputs if isinstance(outputs, tuple) else (outputs,)
        node.n_outputs = len(several)
        for number, tensor in enumerate(several):
            tensor.node, tensor.output = node, number

    def save(self, inputs: tuple[Tensor | None, ...], saved: tuple[Tensor | None, ...]) -> Packed:
        """`saved`, kept before the operator runs: a recomputation that needs no more ends here."""
        return Packed(self._pack_all(saved) if self._wants_history(inputs) else ())

    def _wants_history(self, inputs: tuple[Tensor | None, ...]) -> bool:
        return self.is_grad_enabled and any(x is not None and x.node is not None for x in inputs)

    def _pack_all(self, saved: tuple[Tensor | None, ...]) -> tuple[Tensor | Holder | None, ...]:
        return tuple(None if x is None else self._pack(x) for x in saved)

    def checkpoint(self, compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`compute(x)` of which only `x` is kept: the rest is computed again in the backward pass."""
        if not self.is_grad_enabled:
            return compute(x)
        self._frames.append(Frame(compute, x, self.autocast_dtype))
        try:
            return compute(x)
        finally:
            self._frames.pop()

    def _pack(self, x: Tensor) -> Tensor | Holder:
        if not self._frames:
            block = x.storage.tape.blocks[x.storage.block]
            if block.part == "temporary":
                block.part = "activations"
            return x.alias()
        frame = self._frames[-1]
        if frame.n_recomputed is None:
            holder = Holder(frame)
            frame.holders.append(weakref.ref(holder))
            return holder
        waiting = frame.holders[frame.n_recomputed]()
        if waiting is not None:
            waiting.value = x.alias().as_part("activations") if x.node is None or x.node.backward else x.alias()
        frame.n_recomputed += 1
        if frame.n_recomputed == len(frame.holders):
            raise _AllRecomputedError
        return x.alias()

    def _unpack(self, saved: Tensor | Holder | None) -> Tensor | None:
        if not isinstance(saved, Holder):
            return saved
        if saved.frame.n_recomputed is None:
            self._recompute(saved.frame)
        value, saved.value = saved.value, None
        assert value is not None, "a recomputation saved less than the first computation"
        return value

    def _recompute(self, frame: Frame) -> None:
        frame.n_recomputed = 0
        phase, module = self.tape.phase, self.tape.module
        self.tape.phase = "recompute"
        self._frames.append(frame)
        self.is_grad_enabled = True
        with contextlib.suppress(_AllRecomputedError), self.autocast(frame.autocast_dtype):
            frame.compute(frame.x)
        self.is_grad_enabled = False
        self._frames.pop()
        self.tape.phase, self.tape.module = phase, module

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass from `loss`: every trained leaf then holds a gradient."""
        assert loss.node is not None, "the loss has no history"
        self.tape.op = "ones_like"
        before, self.is_grad_enabled = self.is_grad_enabled, False
        waits = _dependencies(loss.node)
        one = self.empty(loss.shape, loss.dtype)  # torch's caller holds it to the end
        arrived: dict[Node, list[Tensor | None]] = {loss.node: [one]}
        ready = [(-loss.node.sequence, 0, loss.node)]
        n_pushed = 0
        while ready:
            node = heapq.heappop(ready)[2]
            outputs = self._run(node, arrived.pop(node))
            node.saved = ()
            for place, edge in enumerate(node.edges):
                gradient, outputs[place] = outputs[place], None
                if edge is None:
                    continue
                target, number = edge
                buffer = arrived.setdefault(target, [None] * target.n_outputs)
                self._add_into(buffer, number, gradient)
                del gradient
                waits[target] -= 1
                if waits[target] == 0:
                    n_pushed += 1
                    heapq.heappush(ready, (-target.sequence, n_pushed, target))
        del one
        self.is_grad_enabled = before

    def _run(self, node: Node, gradients: list[Tensor | None]) -> list[Tensor | None]:
        """What `node` makes of the gradients of its outputs, reduced to the shapes of its inputs."""
        self.tape.op, self.tape.module = node.name, node.module
        if node.backward is None:
            self._accumulate(node, gradients)
            return []
        if all(gradient is None for gradient in gradients):
            return [None] * len(node.edges)
        results = list(node.backward(tuple(gradients), [self._unpack(saved) for saved in node.saved]))
        for place, (shape, dtype) in enumerate(node.inputs):
            result = results[place]
            if result is None or node.edges[place] is None:
                results[place] = None
                continue
            if result.shape != shape:
                result = results[place] = self._sum_to(result, shape)
            if result.dtype != dtype:
                results[place] = self.empty(shape, dtype, strides=dense_strides(result))
        return results

    def _sum_to(self, x: Tensor, shape: Shape) -> Tensor:
        n_x, n_shape = _count(x.shape), _count(shape)
        if n_x == n_shape:
            return x.alias(shape, contiguous_strides(shape))
        return self.empty(shape, x.dtype)

    def _accumulate(self, leaf: Node, gradients: list[Tensor | None]) -> None:
        gradient = gradients.pop()
        if gradient is None:
            return
        if leaf.grad is None:
            if sys.getrefcount(gradient) > 2 or not is_dense(gradient):
                gradient = self.empty(gradient.shape, gradient.dtype)
            leaf.grad = gradient.alias().as_part("gradients")

    def _add_into(self, buffer: list[Tensor | None], number: int, gradient: Tensor | None) -> None:
        old = buffer[number]
        if old is None or gradient is None:
            buffer[number] = gradient if old is None else old
            return
        # In place where nothing else refers to it: here `old`, the buffer and the call; of the storage, `old`.
        is_mine = sys.getrefcount(old) == 3 and sys.getrefcount(old.storage) == 2
        if not (self.sees_kernels and is_mine and is_dense(old)):
            self.tape.op = "add"
            buffer[number] = self.empty(old.shape, old.dtype, strides=dense_strides(old))


def _dependencies(root: Node) -> dict[Node, int]:
    """How many gradients each node waits for."""
    waits: dict[Node, int] = {}
    seen = {root}
    stack = [root]
    while stack:
        for edge in stack.pop().edges:
            if edge is not None:
                waits[edge[0]] = waits.get(edge[0], 0) + 1
                if edge[0] not in seen:
                    seen.add(edge[0])
                    stack.append(edge[0])
    return waits


def _count(shape: Shape) -> int:
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
    """The strides that an elementwise operator gives its result: those of a dense input, else contiguous."""
    return x.strides if is_dense(x) else contiguous_strides(x.shape)


def view_strides(x: Tensor, shape: Shape) -> Shape | None:
    """Strides under which the storage of `x` reads as `shape`; None when it must be copied first.

    Old axes are grouped while each is contiguous with the next; every new axis must lie within one group.
    """
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
