"""FLOPs and the operators of the roofline for any batch and sequence length, as polynomials."""

from __future__ import annotations

import copy
from typing import Final

import msgspec

from flopwatch.compare.whatif.polynomial import Polynomial, Sizes
from flopwatch.cost.flops import step_flops
from flopwatch.cost.traffic import step_ops
from flopwatch.model.spec import ModelSpec
from flopwatch.workload import Optimizer, Workload

_ONE_BYTE: Final = "int8"  # the roofline's bytes are in proportion to those of an element
_SIZES: Final = Sizes()


class StepWork(msgspec.Struct, frozen=True, kw_only=True):
    """Matmul FLOPs of a step: those of the task, and those that checkpointing and a fused kernel do again."""

    forward: Polynomial
    backward: Polynomial
    recompute: Polynomial
    in_kernel: Polynomial


class OpForm(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of operator: FLOPs, and bytes for each byte of an element; `cold` and `warm` as in cost/traffic.py.

    `is_layers`: a checkpointed step does it again. `is_experts`: its cold bytes are those of all experts, of which no
    more are read than rows ask for.
    """

    calls: int
    flops: Polynomial
    cold: Polynomial
    warm: Polynomial
    is_layers: bool
    is_experts: bool


class StepOps(msgspec.Struct, frozen=True, kw_only=True):
    """The operators of a step without its optimizer: forward, and backward in training."""

    forward: list[OpForm]
    backward: list[OpForm]


def step_work(spec: ModelSpec, workload: Workload) -> StepWork:
    """FLOPs of a step of `workload`, whatever its sizes, with all that can be done again."""
    if workload.is_train:
        workload = msgspec.structs.replace(workload, recompute="full")
    if workload.ops == "fused":
        workload = msgspec.structs.replace(workload, attention="flash")
    flops = step_flops(spec, _SIZES.of(workload))
    return StepWork(
        forward=_SIZES.read(flops.forward.total),
        backward=_SIZES.read(flops.backward.total),
        recompute=_SIZES.read(flops.recompute.total),
        in_kernel=_SIZES.read(flops.in_kernel.total),
    )


def step_forms(spec: ModelSpec, workload: Workload, *, is_within_window: bool) -> StepOps:
    """The operators of a step of `workload`, whatever its sizes, recomputation and optimizer.

    `is_within_window`: for sequences that are no longer than the window, else for those that are no shorter. Raises
    SpecError for what has no roofline in closed form.
    """
    if is_within_window and spec.window is not None:
        spec = copy.copy(spec)
        msgspec.structs.force_setattr(spec, "window", _SIZES.seq_len)  # past its check: no window that anybody has
    plain = msgspec.structs.replace(workload, dtype=_ONE_BYTE, optimizer="none", recompute="none")
    ops = step_ops(spec, _SIZES.of(plain))
    forms: dict[str, list[OpForm]] = {"forward": [], "backward": []}
    for op in ops:
        forms[op.stage].append(
            OpForm(
                calls=op.calls,
                flops=_SIZES.read(op.flops),
                cold=_SIZES.read(op.cold_bytes),
                warm=_SIZES.read(op.warm_bytes),
                is_layers=op.part.startswith("layers."),
                is_experts=op.is_matmul and op.part.startswith("layers.moe.") and "router" not in op.part,
            )
        )
    return StepOps(**forms)


def update_bytes(spec: ModelSpec, optimizer: Optimizer) -> int:
    """Bytes that the optimizer reads and writes, for each byte of an element."""
    work = Workload(phase="train", dtype=_ONE_BYTE, optimizer=optimizer, seq_len=1)
    return sum(op.cold_bytes for op in step_ops(spec, work) if op.stage == "optimizer")
