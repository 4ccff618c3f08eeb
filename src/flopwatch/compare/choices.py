"""What one choice buys: tokens/s of a step with one thing changed, against the base that was timed before and after."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from flopwatch.compare.runs import RUN_TO_RUN_FRACTION
from flopwatch.measure.bench import StepMeasurement
from flopwatch.record import ChoiceRow
from flopwatch.workload import Workload


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that can be changed: what it is called, its other value, and the step that has it."""

    name: str
    value: str
    workload: Workload
    compiled: bool = False


def choices_for(workload: Workload, *, kind: str, compiled: bool) -> list[Choice]:
    """Every choice that can pay on a device of `kind` for this step, one thing changed at a time."""

    def changed(name: str, value: str, **fields: object) -> Choice:
        work = msgspec.structs.replace(workload, **fields)
        return Choice(name=name, value=value, workload=work, compiled=compiled)

    found = []
    if workload.ops == "fused":
        others = [value for value in ("math", "flash") if value != workload.attention]
        found += [changed("attention", value, attention=value) for value in others]
    found += [changed("dtype", dtype, dtype=dtype, precision="pure") for dtype in _dtypes(workload, kind)]
    if workload.dtype == "fp32" and workload.precision == "pure":
        found.append(changed("dtype", "bf16 autocast", dtype="bf16", precision="autocast"))
    if workload.is_train:
        value = "none" if workload.recompute == "full" else "full"
        found.append(changed("recompute", value, recompute=value))
    if workload.is_train and workload.optimizer == "adamw":
        other = "auto" if workload.adamw == "fused" else "fused"
        work = msgspec.structs.replace(workload, adamw=other)
        found.append(Choice(name="optimizer", value=work.optimizer_name, workload=work, compiled=compiled))
    batches = [workload.batch // 2, 2 * workload.batch] if workload.batch > 1 else [2]
    found += [changed("batch", str(batch), batch=batch) for batch in batches]
    return [*found, Choice(name="compile", value="no" if compiled else "yes", workload=workload, compiled=not compiled)]


def choice_row(
    choice: Choice, measured: StepMeasurement, *, base: Sequence[StepMeasurement], base_tokens: int
) -> ChoiceRow:
    """The choice's tokens/s over the base's. The base's interval spans all the times that it was measured.

    As in `compare`, what differs from run to run is added to the interval: a change within it is no change. Of a step
    that others disturbed nothing is concluded.
    """
    timing = measured.timing
    n_tokens = choice.workload.n_tokens
    low = n_tokens / timing.median_high_s * (min(one.timing.median_low_s for one in base) / base_tokens)
    high = n_tokens / timing.median_low_s * (max(one.timing.median_high_s for one in base) / base_tokens)
    base_s = sum(one.timing.median_s for one in base) / len(base)
    interval = [low - 1 - RUN_TO_RUN_FRACTION, high - 1 + RUN_TO_RUN_FRACTION]
    disturbed = measured.disturbed
    if all(one.disturbed for one in base):
        disturbed = disturbed or base[0].disturbed
    return ChoiceRow(
        choice=choice.name,
        value=choice.value,
        tokens_per_s=n_tokens / timing.median_s,
        change_fraction=n_tokens / timing.median_s * base_s / base_tokens - 1,
        interval_fraction=interval,
        pays=None if disturbed or interval[0] <= 0 <= interval[1] else interval[0] > 0,
        step_s=timing.median_s,
        peak_memory_bytes=measured.tensor_peak_bytes,
        disturbed=disturbed,
        workload=choice.workload.to_dict(),
    )


def in_turn_row(row: ChoiceRow, shares: Sequence[float], *, n_rounds: int, disturbed: str | None) -> ChoiceRow:
    """The row with its change as it was in turn: median, low and high (`shares`) of its tokens/s over the base's."""
    share, low, high = shares
    interval = [low - 1 - RUN_TO_RUN_FRACTION, high - 1 + RUN_TO_RUN_FRACTION]
    return msgspec.structs.replace(
        row,
        change_fraction=share - 1,
        interval_fraction=interval,
        pays=None if disturbed or interval[0] <= 0 <= interval[1] else interval[0] > 0,
        disturbed=disturbed,
        n_rounds=n_rounds,
    )


def failed_row(choice: Choice, reason: str) -> ChoiceRow:
    """The row of a choice that did not run here, with the reason."""
    return ChoiceRow(choice=choice.name, value=choice.value, reason=reason, workload=choice.workload.to_dict())


def _dtypes(workload: Workload, kind: str) -> list[str]:
    known = ["fp32", "bf16"] if kind in {"cpu", "mps", "xpu"} else ["fp32", "bf16", "fp16"]
    return [dtype for dtype in known if dtype != workload.dtype or workload.precision != "pure"]
