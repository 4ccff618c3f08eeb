"""Utilization: what a step achieved over what the device could, MFU and HFU, both numbers kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from flopwatch.cost.convention import Convention, group_of
from flopwatch.cost.flops import StepFlops
from flopwatch.model.spec import ModelSpec
from flopwatch.record import UtilizationRow
from flopwatch.tally import Tally
from flopwatch.units import format_percent, format_rate
from flopwatch.workload import DTYPE_BYTES

PeakKind = Literal["datasheet", "measured", "user", "notebook"]
_NO_WORK: Final = "no matmul was counted in the step"
_NO_PEAK: Final = "no peak is known; give one with --peak-tflops"


class Ceiling(msgspec.Struct, frozen=True, kw_only=True):
    """The peaks of one device of one kind, by dtype, and where each comes from; a missing one has its reason."""

    kind: PeakKind
    flops_per_s: dict[str, float] = {}
    sources: dict[str, str] = {}
    reason: str = _NO_PEAK
    """Why a dtype that is not there is not there, with the way out."""


def merged_ceiling(ceilings: Sequence[Ceiling]) -> Ceiling:
    """Ceilings of one kind, each of another dtype, as one; its reason is that of the first dtype without a peak."""
    missing = [ceiling.reason for ceiling in ceilings if not ceiling.flops_per_s]
    return Ceiling(
        kind=ceilings[0].kind,
        flops_per_s={dtype: peak for ceiling in ceilings for dtype, peak in ceiling.flops_per_s.items()},
        sources={dtype: source for ceiling in ceilings for dtype, source in ceiling.sources.items()},
        reason=missing[0] if missing else ceilings[0].reason,
    )


class RunDTypes(msgspec.Struct, frozen=True, kw_only=True):
    """The dtype that the matmuls of each group of parts run in (see `group_of`)."""

    layers: str
    attention: str
    head: str

    @property
    def names(self) -> set[str]:
        """Every dtype that is used."""
        return {self.layers, self.attention, self.head}

    def of(self, part: str) -> str:
        """The dtype of a part's matmul; parts outside layers, attention and head go with the layers."""
        group = group_of(part)
        return {"attention": self.attention, "head": self.head}.get(group, self.layers)


def run_dtypes(
    dtype: str, convention: Convention, *, attention: str | None = None, head: str | None = None
) -> RunDTypes:
    """The dtypes of a run: `dtype` everywhere, unless told otherwise or the convention weighs peaks.

    A convention with weighted peaks takes attention and head of an 8-bit run to be bf16.
    """
    is_narrow = convention.peak == "weighted" and DTYPE_BYTES.get(dtype, 1) < DTYPE_BYTES["bf16"]
    other = "bf16" if is_narrow else dtype
    return RunDTypes(layers=dtype, attention=attention or other, head=head or other)


def utilization_rows(
    step: StepFlops,
    *,
    step_s: float,
    dtypes: RunDTypes,
    convention: str,
    ceilings: Sequence[Ceiling],
    n_devices: int = 1,
) -> list[UtilizationRow]:
    """MFU and HFU of one step against each ceiling, in the ceilings' order.

    Where a run mixes dtypes the ideal time is the sum of FLOPs / peak over them, and the peak that is reported is
    the one that gives this time: all FLOPs over it. A ceiling that lacks a dtype gives a row without a fraction and
    with the reason.
    """
    return rows_of_dtypes(
        *work_by_dtype(step, dtypes), step_s=step_s * n_devices, convention=convention, ceilings=ceilings
    )


def work_by_dtype(step: StepFlops, dtypes: RunDTypes) -> tuple[dict[str, int], dict[str, int]]:
    """Model FLOPs and hardware FLOPs of a step by the dtype that their matmuls run in."""
    model = _by_dtype(step.forward + step.backward, dtypes)
    hardware = _by_dtype(step.forward + step.backward + step.recompute + step.in_kernel, dtypes)
    return model, hardware


def reaches_window(spec: ModelSpec, seq_len: int) -> bool:
    """Whether a sequence is long enough for a window of the network to leave keys out."""
    return spec.window is not None and spec.n_windowed_layers > 0 and seq_len > spec.window


def window_notes(spec: ModelSpec, seq_len: int, convention: Convention) -> list[str]:
    """That the convention counts keys which a window leaves out, where it does."""
    if spec.window is None or not reaches_window(spec, seq_len):
        return []
    if convention.attention not in {"full", "causal", "causal-exact"}:
        return []
    return [
        f"{convention.name} counts all {seq_len:,} keys in the {spec.n_windowed_layers} layers that see only"
        f" {spec.window:,}: matmul-window-exact counts what the window leaves"
    ]


def rows_of_dtypes(
    model: Mapping[str, int],
    hardware: Mapping[str, int],
    *,
    step_s: float,
    convention: str,
    ceilings: Sequence[Ceiling],
) -> list[UtilizationRow]:
    """MFU and HFU of one step of which the FLOPs are known by dtype, against each ceiling (see `utilization_rows`)."""
    rows = []
    for ceiling in ceilings:
        rows.append(_row("mfu", model, step_s, convention, ceiling))
        rows.append(_row("hfu", hardware, step_s, convention, ceiling))
    return rows


def utilization_warnings(rows: Sequence[UtilizationRow]) -> list[str]:
    """One warning for each figure above 100 %, with its usual causes; HFU is not repeated where it is MFU."""
    said: dict[tuple[str, str, float], str] = {}
    for row in rows:
        if row.fraction is not None and row.fraction > 1 and row.peak_flops_per_s is not None:
            where = (row.convention, row.peak_kind, row.fraction)
            said.setdefault(where, _above(row, row.fraction, row.peak_flops_per_s))
    return list(said.values())


def _above(row: UtilizationRow, fraction: float, peak_flops_per_s: float) -> str:
    causes = {
        "notebook": "the notebook's table holds rates of units that do no matmuls: use the datasheet's",
        "datasheet": (
            "usual causes: another device, dtype or number of devices than given, a clock above the nominal one"
            " (GeForce cards reach 108 to 121 %), or a convention that counts work which is not done"
        ),
        "measured": "usual causes: the peak was measured on a busy or throttled device; measure it again",
        "user": "usual causes: a peak of another dtype or device, or one for less than was running",
    }[row.peak_kind]
    share = f"{row.name.upper()} {format_percent(fraction)} of {format_rate(peak_flops_per_s)} ({row.convention})"
    return f"{share} is above 100 %: {causes}"


def _by_dtype(parts: Tally, dtypes: RunDTypes) -> dict[str, int]:
    amounts: dict[str, int] = {}
    for name, flops in parts.items():
        amounts[dtypes.of(name)] = amounts.get(dtypes.of(name), 0) + flops
    return amounts


def _row(
    name: Literal["mfu", "hfu"],
    flops: Mapping[str, int],
    per_device_s: float,
    convention: str,
    ceiling: Ceiling,
) -> UtilizationRow:
    total = sum(flops.values())
    missing = [dtype for dtype in flops if dtype not in ceiling.flops_per_s]
    fraction = peak = source = None
    if not missing and total:
        ideal_s = sum(amount / ceiling.flops_per_s[dtype] for dtype, amount in flops.items())
        fraction = ideal_s / per_device_s
        peak = ceiling.flops_per_s[next(iter(flops))] if len(flops) == 1 else total / ideal_s
        source = " and ".join(dict.fromkeys(ceiling.sources[dtype] for dtype in flops))
        source += ", weighted by FLOPs" if len(flops) > 1 else ""
    return UtilizationRow(
        name=name,
        fraction=fraction,
        convention=convention,
        flops_per_s=total / per_device_s,
        peak_flops_per_s=peak,
        peak_kind=ceiling.kind,
        peak_source=source,
        reason=ceiling.reason if missing else None if total else _NO_WORK,
    )
