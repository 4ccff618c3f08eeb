"""Why a step is slower than it could be: the measured time split into parts beside the roofline's."""

from __future__ import annotations

import msgspec

from flopwatch.api.bench_series import BenchSeries
from flopwatch.api.roofline import check_own_roofline, measured_roof, roofline_of_own
from flopwatch.compare.gap import GapProbes, split_gap
from flopwatch.compare.roofline import roofline
from flopwatch.cost.traffic import step_ops
from flopwatch.errors import InputError, SpecError
from flopwatch.measure.gap import empty_step_s, matmuls_alone_s, profile_step
from flopwatch.model.own import Model, OwnModel
from flopwatch.record import BenchResult
from flopwatch.store import Store
from flopwatch.workload import Workload


def check_why(model: Model, workload: Workload, *, kind: str) -> None:
    """Refuse what cannot be split: an accelerator, or a step whose roofline is not known."""
    if kind != "cpu":
        raise InputError(f"--why cannot split a step on {kind} yet", hint="use --device cpu, or `flopwatch roofline`")
    if isinstance(model, OwnModel):
        check_own_roofline(workload)
        return
    try:
        step_ops(model, workload)
    except SpecError as error:
        raise InputError(f"--why: {error.message}", hint="leave it out, or time the step without that") from error


def explain(
    model: Model, workload: Workload, result: BenchResult, benches: BenchSeries, *, store: Store
) -> BenchResult:
    """The benchmark of that step with `gap`: where its time goes, from a few more probes.

    The roofline stands on the peak and the bandwidth measured here; that of the user's code comes from a trace of it.
    Raises InputError for what cannot be split.
    """
    check_why(model, workload, kind=benches.machine.kind)
    request = benches.request(model, workload)
    profiled = profile_step(request, benches.series)
    probes = GapProbes(
        profiled_s=profiled["wall_s"],
        operators=profiled["operators"],
        matmuls_alone_s=matmuls_alone_s(request, benches.series),
        empty_step_s=empty_step_s(request, benches.series),
    )
    roof = measured_roof(benches.machine, workload.dtype, store)
    if isinstance(model, OwnModel):
        least = roofline_of_own(model, workload, benches.series, roof=roof, timeout_s=request.timeout_s)
    else:
        least = roofline(model, workload, roof)
    return msgspec.structs.replace(result, gap=split_gap(result.step_s.median, least, probes))
