"""Peak memory of the reference network from a run of the real step on tensors without data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from flopwatch.cost.eager.tape import Tape
from flopwatch.cost.memory import MemoryEstimate
from flopwatch.model.spec import ModelSpec
from flopwatch.reference.model import DTYPES, build_model
from flopwatch.reference.step import make_step
from flopwatch.trace.api import trace
from flopwatch.trace.result import Trace
from flopwatch.trace.timeline import tape_of
from flopwatch.workload import Workload

N_STEPS: Final = 2
"""Optimizer state is made at the end of the first step: the second shows the peak of training."""


def trace_memory(tape: Tape) -> MemoryEstimate:
    """The peak of a traced step (`memory_tape`), by part."""
    peak = tape.peak()
    return MemoryEstimate(
        peak_bytes=peak.n_bytes,
        parts=peak.parts,
        assumptions=(
            f"{N_STEPS} steps of the reference network traced on tensors without data, operators as a CPU runs them",
            "gradients that meet are added into a new tensor, as a dispatch mode sees them (a real run adds in place)",
        ),
        peak=peak,
    )


def memory_tape(spec: ModelSpec, workload: Workload, *, n_steps: int = N_STEPS) -> Tape:
    """Every allocation and release of `n_steps` steps, weights first."""
    return tape_of(trace_step(spec, workload, n_steps=n_steps))


def trace_step(spec: ModelSpec, workload: Workload, *, n_steps: int = N_STEPS, hidden_tensors: bool = True) -> Trace:
    """The trace of `n_steps` steps on fake CPU tensors; with `hidden_tensors` what operators make inside.

    Fake CPU tensors take the paths that a CPU takes; on `meta`, autocast does nothing and norms keep other statistics.
    """
    dtype = torch.float32 if workload.precision == "autocast" else DTYPES[workload.dtype]
    model = build_model(
        spec,
        ops=workload.ops,
        attention=workload.attention,
        recompute=workload.recompute,
        device="meta",
        dtype=dtype,
    )
    with FakeTensorMode():
        fill(model)
        step = make_step(model, workload)

        def steps() -> None:
            with HiddenTensors() if hidden_tensors else contextlib.nullcontext():  # type: ignore[no-untyped-call]
                for _ in range(n_steps):
                    step()

        return trace(steps, model=model, attention=workload.attention)


def fill(model: nn.Module) -> None:
    """Replace parameters and buffers on `meta` by ones of the mode that is entered, tied ones by one."""
    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for table, name, tensor in _tensors(model):
        if id(tensor) not in made:
            new = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            is_parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = (tensor, nn.Parameter(new, tensor.requires_grad) if is_parameter else new)
        table[name] = made[id(tensor)][1]


def _tensors(model: nn.Module) -> Iterator[tuple[dict[str, Any], str, torch.Tensor]]:
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in list(table.items()):
                if tensor is not None:
                    yield table, name, tensor


class HiddenTensors(TorchDispatchMode):
    """Makes visible what two operators allocate inside, out of sight of any dispatch mode.

    A matmul copies an operand with a stride of 0, which no library can read; a safe softmax makes a mask of all scores.
    """

    _MATMULS: Final = frozenset({torch.ops.aten.mm.default, torch.ops.aten.bmm.default, torch.ops.aten.addmm.default})
    _SOFTMAX: Final = torch.ops.aten._safe_softmax.default

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operator, with what it hides alive meanwhile."""
        del types
        copies = []
        if func in self._MATMULS:
            copies = [arg.clone(memory_format=torch.contiguous_format) for arg in args[-2:] if _is_expanded(arg)]
        result = func(*args, **(kwargs or {}))
        if func is self._SOFTMAX:
            copies = [torch.isneginf(args[0])]
        del copies
        return result


def _is_expanded(tensor: torch.Tensor) -> bool:
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
