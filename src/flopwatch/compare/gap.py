"""Why a step is slower than its roofline: its time in named parts, each beside the least that the part can take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import msgspec

from flopwatch.record import GapPart, GapSplit, RooflineResult, RooflineRow
from flopwatch.units import format_percent

Group = Literal["matmul", "attention", "memory", "optimizer", "overhead"]

_MATMULS: Final = frozenset({"aten::mm", "aten::addmm", "aten::addmv", "aten::mv", "aten::dot", "aten::_grouped_mm"})
_KERNELS: Final = ("convolution", "slow_conv", "thnn_conv", "mkldnn_linear", "rnn_layer")  # of code of the user's
_ATTENTION: Final = frozenset({"aten::bmm", "aten::baddbmm", "aten::_softmax", "aten::_softmax_backward_data"})
# What moves no data on a CPU: views, empty tensors, and operators that only call others.
_NO_WORK: Final = (
    "alias", "as_strided", "broadcast_tensors", "chunk", "conj", "contiguous", "detach", "detach_", "dropout",
    "embedding", "empty", "empty_like", "empty_strided", "expand", "expand_as", "flatten", "item", "layer_norm",
    "linear", "lift_fresh", "matmul", "narrow", "new_empty", "new_zeros", "numpy_T", "permute", "reshape",
    "reshape_as", "resize_", "resolve_conj", "resolve_neg", "select", "set_", "slice", "split", "split_with_sizes",
    "squeeze", "t", "to", "transpose", "unbind", "unflatten", "unsafe_split", "unsqueeze", "view", "view_as",
    "zeros", "zeros_like", "_to_copy", "_unsafe_view", "_reshape_alias", "_local_scalar_dense", "clone", "arange",
    "cross_entropy_loss", "log_softmax", "nll_loss", "nll_loss_nd", "softmax", "rms_norm", "ones", "ones_like",
    "type_as", "is_nonzero",
)  # fmt: skip
_ROUGH: Final = 0.10
_NO_DATA: Final = "inputs are made before the clock starts: waiting for a loader is seen with fw.Meter in your own loop"


class GapProbes(msgspec.Struct, frozen=True, kw_only=True):
    """What the probes said: the step's operators under the profiler, its matmuls alone, a step of almost no work."""

    profiled_s: float
    operators: list[dict[str, Any]]
    matmuls_alone_s: float | None
    empty_step_s: float | None


def group_of_operator(name: str, *, in_optimizer: bool) -> Group:
    """The part of a step that an operator of the profiler belongs to."""
    if in_optimizer:
        return "optimizer"
    if name in _MATMULS or any(kernel in name for kernel in _KERNELS):
        return "matmul"
    if name in _ATTENTION or ("scaled_dot_product" in name and name.startswith("aten::_")):
        return "attention"
    if name.removeprefix("aten::") in _NO_WORK or not name.startswith("aten::") or "scaled_dot_product" in name:
        return "overhead"  # autograd's own nodes and everything that is no operator
    return "memory"


def group_of_row(row: RooflineRow) -> Group:
    """The part of a step that a row of the roofline belongs to, in closed form or of a trace."""
    if row.stage == "optimizer":
        return "optimizer"
    name = row.operator
    if name.startswith("layers.attention.core") or f"aten::{name}" in _ATTENTION or "scaled_dot_product" in name:
        return "attention"
    return "matmul" if row.flops else "memory"


def split_gap(step_s: float, roofline: RooflineResult, probes: GapProbes) -> GapSplit:
    """The measured step in parts; what they leave over or exceed it by is `unexplained`, so that all add up to it."""
    seen = _sums(
        (group_of_operator(op["name"], in_optimizer=op["in_optimizer"]), op["self_s"]) for op in probes.operators
    )
    least = _sums((group_of_row(row), row.time_s) for row in roofline.operators)
    overhead_s, source = probes.empty_step_s, "a step of the same operators on almost no data"
    if overhead_s is None:
        in_operators = math.fsum(op["self_s"] for op in probes.operators)
        overhead_s = seen["overhead"] + probes.profiled_s - in_operators
        source = "profiled: between operators, and in those that move nothing"
    parts = [
        GapPart(name=name, measured_s=seen[name], roofline_s=least[name], source="profiled")
        for name in ("matmul", "attention", "memory", "optimizer")
        if seen[name] or least[name]
    ]
    parts.append(GapPart(name="overhead", measured_s=overhead_s, roofline_s=0.0, source=source))
    parts.append(GapPart(name="data", measured_s=0.0, roofline_s=0.0, source=_NO_DATA))
    left_s = step_s - math.fsum(part.measured_s for part in parts)
    parts.append(GapPart(name="unexplained", measured_s=left_s, roofline_s=0.0, source="what the parts leave over"))
    return GapSplit(
        step_s=step_s,
        roofline_s=roofline.time_s,
        roofline_source=f"{roofline.peak_source}; bandwidth {roofline.bandwidth_source}",
        parts=parts,
        profiled_s=probes.profiled_s,
        matmuls_alone_s=probes.matmuls_alone_s,
        notes=_notes(step_s, left_s, seen, probes),
    )


def _sums(rows: Iterable[tuple[Group, float]]) -> dict[Group, float]:
    sums: dict[Group, float] = {"matmul": 0.0, "attention": 0.0, "memory": 0.0, "optimizer": 0.0, "overhead": 0.0}
    for group, time_s in rows:
        sums[group] += time_s
    return sums


def _notes(step_s: float, left_s: float, seen: Mapping[Group, float], probes: GapProbes) -> list[str]:
    notes = []
    if abs(left_s) > _ROUGH * step_s:
        way = "more" if left_s < 0 else "less"
        notes.append(
            f"the parts together are {format_percent(abs(left_s) / step_s)} {way} than the step: the machine is not"
            " quiet, or the profiler slowed it down; take the split as rough"
        )
    alone_s = probes.matmuls_alone_s
    if alone_s is not None and seen["matmul"] and abs(alone_s / seen["matmul"] - 1) > 2 * _ROUGH:
        way = "slower" if seen["matmul"] > alone_s else "faster"
        notes.append(
            f"matmuls are {format_percent(abs(seen['matmul'] / alone_s - 1))} {way} in the step than alone at the same"
            " shapes: memory, cache and other operators between them, or a machine that is not quiet"
        )
    return notes
