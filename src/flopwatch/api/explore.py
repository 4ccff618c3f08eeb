"""Which choices pay on this device: the base, then one thing changed at a time, each timed."""

from __future__ import annotations

import msgspec

from flopwatch.api.bench_series import BenchSeries
from flopwatch.compare.choices import Choice, choice_row, choices_for, failed_row
from flopwatch.errors import FlopwatchError
from flopwatch.measure.bench import StepMeasurement, bench_step
from flopwatch.model.own import Model, OwnModel
from flopwatch.record import BenchResult, ChoiceRow
from flopwatch.workload import Workload


def explore(spec: Model, workload: Workload, benches: BenchSeries, *, compiled: bool = False) -> BenchResult:
    """The benchmark of the base, with one row in `choices` for each thing changed: attention, dtype, optimizer, ...

    The base is timed again at the end: the first row says how far the machine alone moves a figure. A choice that
    does not run here has a row with the reason.
    """
    first, result = benches.measure(spec, workload, compiled=compiled)
    tried: list[tuple[Choice, StepMeasurement | str]] = []
    fixed = _fixed(spec, workload, benches)
    for choice in choices_for(workload, kind=benches.machine.kind, compiled=compiled):
        if choice.name in fixed:
            continue
        request = benches.request(spec, choice.workload, compiled=choice.compiled)
        try:
            tried.append((choice, bench_step(request, benches.series)))
        except FlopwatchError as error:
            tried.append((choice, str(error)))
    again = bench_step(benches.request(spec, workload, compiled=compiled, repeat=1), benches.series)
    base = [first, again]
    same = Choice(name="base", value="again", workload=workload, compiled=compiled)
    moved = choice_row(same, again, base=[first], base_tokens=workload.n_tokens)
    rows: list[ChoiceRow] = [msgspec.structs.replace(moved, pays=None)]  # it is the same step: nothing was bought
    for choice, seen in tried:
        if isinstance(seen, str):
            rows.append(failed_row(choice, seen))
        else:
            rows.append(choice_row(choice, seen, base=base, base_tokens=workload.n_tokens))
    details = result.details
    low, high = moved.interval_fraction or (0.0, 0.0)
    if not low <= 0 <= high:
        note = (
            f"the base itself changed by {100 * (moved.change_fraction or 0):+.1f} % from its first run to its last:"
            " the machine is not quiet, and the intervals of the choices are as wide"
        )
        details = {**details, "notes": [*details["notes"], note]}
    return msgspec.structs.replace(result, choices=rows, details=details)


def _fixed(model: Model, workload: Workload, benches: BenchSeries) -> frozenset[str]:
    """What cannot be changed from outside: a module of the user's has its own attention, checkpoints and inputs."""
    if not isinstance(model, OwnModel):
        return frozenset()
    takes_batch = benches.own_work(model, workload).takes_batch
    return frozenset({"attention", "recompute", *(() if takes_batch else ("batch",))})
