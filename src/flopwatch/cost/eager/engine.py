"""One run on tensors without data: its gradient mode, its backward pass, its checkpoints.

The order of the backward pass, what is added in place, and when a saved tensor is released follow torch's engine.
"""

from __future__ import annotations

import contextlib
import heapq
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Final

from flopwatch.cost.eager.tape import Tape
from flopwatch.cost.eager.tensor import (
    ELEMENT_BYTES,
    FLOATS,
    LAST,
    Backward,
    Frame,
    Holder,
    Node,
    Packed,
    Shape,
    Storage,
    Tensor,
    contiguous_strides,
    count,
    dense_strides,
    is_dense,
)

_RANDOM_STATE_BYTES: Final = 5056  # of torch's CPU generator (a Mersenne twister)


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
            tensor.node = Node("AccumulateGrad", module, LAST)
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
        self._frames.append(Frame(compute, x, self.autocast_dtype, self._random_state()))
        try:
            return compute(x)
        finally:
            self._frames.pop()

    def _random_state(self) -> Tensor | None:
        """The generator's state, which torch keeps for each checkpointed part; in host memory for a device."""
        if self.device_type != "cpu" or not self.sees_kernels:
            return None
        self.tape.op = "get_rng_state"
        return self.empty((_RANDOM_STATE_BYTES,), "bool", "activations")

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
        self.tape.phase, self.tape.module = "recompute", ""
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
        n_x, n_shape = count(x.shape), count(shape)
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
        # In place where nothing else refers to it: here `old`, the buffer and the call; of the storage, `old`. A view
        # holds on to the tensor that it is a view of, so that its storage is never its own.
        is_mine = sys.getrefcount(old) == 3 and sys.getrefcount(old.storage) == 2 and not old.is_view
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
