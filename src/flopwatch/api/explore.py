"""Which choices pay on this device: the base, then one thing changed at a time, each timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from flopwatch.api.bench_series import BenchSeries
from flopwatch.compare.choices import Choice, choice_row, choices_for, failed_row, in_turn_row
from flopwatch.errors import FlopwatchError
from flopwatch.measure.bench import LEAST_STEPS, BenchRequest, StepMeasurement, bench_step, is_step_done
from flopwatch.measure.turns import time_in_turn
from flopwatch.model.own import Model, OwnModel
from flopwatch.probe.turns import TurnPlan
from flopwatch.record import BenchResult, ChoiceRow
from flopwatch.units import format_seconds
from flopwatch.workload import Workload

_PLAN: Final = TurnPlan(target_s=2.0, most_s=5.0, sure_fraction=0.01)
_MOST_IN_TURN: Final = 6
_FIRST_STEP_S: Final = 20.0  # what a first step may take beyond the others: a context, the network, its memory
_LEAST_PATIENCE_S, _PATIENT_STEPS = 60.0, 50
_Unsure = tuple[int, Choice, StepMeasurement]
"""The place of a row that leaves unsure whether its choice pays, the choice, and how it was timed alone."""


def explore(
    spec: Model,
    workload: Workload,
    benches: BenchSeries,
    *,
    compiled: bool = False,
    timeout_s: float | None = None,
) -> BenchResult:
    """The benchmark of the base, with one row in `choices` for each thing changed: attention, dtype, optimizer, ...

    The base is timed again at the end: the first row says how far the machine alone moves a figure. A choice of which
    that leaves unsure whether it pays is timed in turn with the base, where that can be. A choice that does not run
    here has a row with the reason. `timeout_s` is how long one may be timed; None: as long as one that is five times
    slower than the base takes, or a compilation.
    """
    first, result = benches.measure(spec, workload, compiled=compiled)
    fixed = _fixed(spec, workload, benches)
    tried = [
        (choice, _tried(spec, choice, first, benches, timeout_s=timeout_s, may_compile=choice.compiled != compiled))
        for choice in choices_for(workload, kind=benches.machine.kind, compiled=compiled)
        if choice.name not in fixed
    ]
    again = bench_step(benches.request(spec, workload, compiled=compiled, repeat=1), benches.series)
    base = [first, again]
    same = Choice(name="base", value="again", workload=workload, compiled=compiled)
    moved = choice_row(same, again, base=[first], base_tokens=workload.n_tokens)
    rows: list[ChoiceRow] = [msgspec.structs.replace(moved, pays=None)]  # it is the same step: nothing was bought
    unsure: list[_Unsure] = []
    for choice, seen in tried:
        if isinstance(seen, str):
            rows.append(failed_row(choice, seen))
            continue
        rows.append(choice_row(choice, seen, base=base, base_tokens=workload.n_tokens))
        if rows[-1].pays is None:
            unsure.append((len(rows) - 1, choice, seen))
    request = benches.request(spec, workload, compiled=compiled)
    for group in _groups(unsure, first, benches):
        _make_surer(rows, group, request, benches)
    details = result.details
    low, high = moved.interval_fraction or (0.0, 0.0)
    if not low <= 0 <= high:
        note = (
            f"the base itself changed by {100 * (moved.change_fraction or 0):+.1f} % from its first run to its last:"
            " the machine is not quiet, and the intervals of the choices are as wide"
        )
        details = {**details, "notes": [*details["notes"], note]}
    return msgspec.structs.replace(result, choices=rows, details=details)


def _tried(
    spec: Model,
    choice: Choice,
    base: StepMeasurement,
    benches: BenchSeries,
    *,
    timeout_s: float | None,
    may_compile: bool,
) -> StepMeasurement | str:
    """How long the choice's step takes, or why that is not known. A first compilation takes as long as it takes."""
    request = benches.request(spec, choice.workload, compiled=choice.compiled)
    if timeout_s is not None or not may_compile:
        patience_s = _patience_s(base) if timeout_s is None else timeout_s
        request = msgspec.structs.replace(request, timeout_s=min(request.timeout_s, patience_s))
    try:
        return _why_hopeless(request, choice, base, benches) or bench_step(request, benches.series)
    except FlopwatchError as error:
        return str(error)


def _patience_s(base: StepMeasurement) -> float:
    """How long a choice is timed at most: one five times slower than the base has its steps in it."""
    return _LEAST_PATIENCE_S + _PATIENT_STEPS * base.timing.median_s


def _why_hopeless(request: BenchRequest, choice: Choice, base: StepMeasurement, benches: BenchSeries) -> str | None:
    """Why a step of another dtype is not timed: one of them shows that the time is too short for the samples.

    A CPU without instructions for a dtype may be a hundred times slower in it: that is worth one step, not seven.
    A compiled step is not asked, as it is compiled anew for the dtype.
    """
    if choice.name != "dtype" or choice.compiled:
        return None
    within_s = min(request.timeout_s, _FIRST_STEP_S + request.timeout_s / LEAST_STEPS)
    if is_step_done(request, benches.series, within_s=within_s):
        return None
    return (
        f"not timed: one step was not done in {format_seconds(within_s)}, {within_s / base.timing.median_s:.0f} times"
        " what the base takes (--timeout gives it more)"
    )


def _groups(unsure: Sequence[_Unsure], base: StepMeasurement, benches: BenchSeries) -> list[list[_Unsure]]:
    """The unsure ones in groups that fit into memory beside the base; those that do not are left out."""
    groups: list[list[_Unsure]] = []
    for one in unsure:
        if not benches.fit_beside([base, one[2]]):
            continue
        last = [base, *(seen for _, _, seen in groups[-1])] if groups else []
        if 0 < len(last) < _MOST_IN_TURN and benches.fit_beside([*last, one[2]]):
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _make_surer(rows: list[ChoiceRow], group: Sequence[_Unsure], base: BenchRequest, benches: BenchSeries) -> None:
    """Put what each of the group buys round by round, timed in turn with the base, into its row.

    Where one of them fails beside the others the rows stay as they are.
    """
    requests = [benches.request(base.spec, choice.workload, compiled=choice.compiled) for _, choice, _ in group]
    try:
        found = time_in_turn([base, *requests], benches.series, plan=_PLAN)
    except FlopwatchError:
        return
    for (place, choice, _), speed in zip(group, found.speeds[1:], strict=True):
        shares = [one * choice.workload.n_tokens / base.workload.n_tokens for one in speed]
        rows[place] = in_turn_row(rows[place], shares, n_rounds=found.n_rounds, disturbed=found.disturbed)


def _fixed(model: Model, workload: Workload, benches: BenchSeries) -> frozenset[str]:
    """What cannot be changed from outside: a module of the user's has its own attention, checkpoints and inputs."""
    if not isinstance(model, OwnModel):
        return frozenset()
    takes_batch = benches.own_work(model, workload).takes_batch
    return frozenset({"attention", "recompute", *(() if takes_batch else ("batch",))})
