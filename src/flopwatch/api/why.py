"""Why a step is slower than it could be: the measured time split into parts beside the roofline's."""

from __future__ import annotations

import msgspec

from flopwatch.api.bench_series import BenchSeries
from flopwatch.api.roofline import measured_roof
from flopwatch.compare.gap import GapProbes, split_gap
from flopwatch.compare.roofline import roofline
from flopwatch.cost.traffic import step_ops
from flopwatch.errors import InputError, SpecError
from flopwatch.measure.gap import empty_step_s, matmuls_alone_s, profile_step
from flopwatch.model.spec import ModelSpec
from flopwatch.record import BenchResult
from flopwatch.store import Store
from flopwatch.workload import Workload


def check_why(spec: ModelSpec, workload: Workload, *, kind: str) -> None:
    """Refuse what cannot be split: an accelerator, or a step whose roofline is not known in closed form."""
    if kind != "cpu":
        raise InputError(f"--why cannot split a step on {kind} yet", hint="use --device cpu, or `flopwatch roofline`")
    try:
        step_ops(spec, workload)
    except SpecError as error:
        raise InputError(f"--why: {error.message}", hint="leave it out, or time the step without that") from error


def explain(
    spec: ModelSpec, workload: Workload, result: BenchResult, benches: BenchSeries, *, store: Store
) -> BenchResult:
    """The benchmark of that step with `gap`: where its time goes, from three more probes.

    The roofline stands on the peak and the bandwidth measured here. Raises InputError for what cannot be split.
    """
    check_why(spec, workload, kind=benches.machine.kind)
    request = benches.request(spec, workload)
    profiled = profile_step(request, benches.series)
    probes = GapProbes(
        profiled_s=profiled["wall_s"],
        operators=profiled["operators"],
        matmuls_alone_s=matmuls_alone_s(request, benches.series),
        empty_step_s=empty_step_s(request, benches.series),
    )
    least = roofline(spec, workload, measured_roof(benches.machine, workload.dtype, store))
    return msgspec.structs.replace(result, gap=split_gap(result.step_s.median, least, probes))
