"""`flopwatch compare`: what changed between two records, beyond the noise or not."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from flopwatch.cli.options import PlotOptions, StoreOptions
from flopwatch.cli.output import emit
from flopwatch.cli.records import find_record
from flopwatch.cli.request import request
from flopwatch.compare.condition import judge, parse_condition
from flopwatch.compare.runs import compare_records
from flopwatch.errors import RegressionError
from flopwatch.record import make_record


def compare(
    before: str,
    after: str,
    /,
    *,
    fail_if: Annotated[tuple[str, ...], Parameter(name="--fail-if", negative="", consume_multiple=False)] = (),
    store: StoreOptions | None = None,
    output: PlotOptions | None = None,
) -> None:
    """What changed between two records: each figure, its interval, and whether it is more than noise; needs no torch.

    Parameters
    ----------
    before
        The number of a run in the store, or a file written with -o.
    after
        The one to compare with it.
    fail_if
        Exit with 3 when a change meets this: 'tokens_per_s<-5%', 'flops>0%', 'mfu<-5%' (repeatable); also when that
        figure, or a result with it, is missing from the second record. A change within the noise passes with a warning.
    """
    conditions = [parse_condition(text) for text in fail_if]
    where = store or StoreOptions()
    first, second = find_record(before, where), find_record(after, where)
    compared = compare_records(first, second)
    verdicts = [judge(condition, compared) for condition in conditions]
    warnings = compared.warnings + [
        f"--fail-if {v.condition} is not met only for the noise: {said}" for v in verdicts for said in v.in_noise
    ]
    asked = request(before=before, after=after, fail_if=list(fail_if))
    environments = {"before": first.environment, "after": second.environment}
    record = make_record(
        "compare", environment=environments, request=asked, results=compared.results, warnings=warnings
    )
    emit(record, output or PlotOptions())
    failed = [f"{v.condition} is met by {said}" for v in verdicts for said in v.met]
    failed += [f"{v.condition} cannot be judged: {said}" for v in verdicts for said in v.lost]
    if failed:
        raise RegressionError("; ".join(failed))
