"""`flopwatch peak`: the matmul FLOP/s and memory bandwidth that this machine reaches."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from flopwatch import units, workload
from flopwatch.cli.options import OutputOptions, StoreOptions
from flopwatch.cli.output import emit, note
from flopwatch.cli.request import request
from flopwatch.device.detect import environment
from flopwatch.errors import InputError
from flopwatch.measure.peak import EACH_S, FULL_S, QUICK_S, dtypes_of, keep_peak, measure_bandwidth, measure_peak
from flopwatch.measure.series import ProbeSeries
from flopwatch.record import make_record
from flopwatch.store import Store


def peak(
    *,
    dtype: Annotated[tuple[workload.DType, ...], Parameter(consume_multiple=False, negative="")] = (),
    device: str = "auto",
    quick: Annotated[bool, Parameter(negative="")] = False,
    store: StoreOptions | None = None,
    output: OutputOptions | None = None,
) -> None:
    """The highest matmul FLOP/s and memory bandwidth of this machine, measured, and kept as its denominator of MFU.

    Each figure is kept until driver, torch, power limit, cores or threads change; `bench` and `report` use it.

    Parameters
    ----------
    dtype
        Measure this dtype (repeatable); all that the device can multiply when left out.
    device
        auto, cpu, cuda, cuda:1, rocm, xpu or mps.
    quick
        About 6 s instead of 20 for one dtype: fewer shapes, fewer samples.
    """
    output = output or OutputOptions()
    machine = ProbeSeries().machine(device)
    note("measuring memory bandwidth", output)
    bandwidth = measure_bandwidth(machine, budget_s=1.0 if quick else 3.0)
    budget_s = QUICK_S if quick else FULL_S if len(dtype) == 1 else EACH_S
    results, warnings = [], []
    with Store((store or StoreOptions()).store) as kept:
        for name in dtype or dtypes_of(machine):
            note(f"measuring {name} matmuls", output)
            try:
                result = measure_peak(name, machine, budget_s=budget_s, bandwidth=bandwidth)
            except InputError as error:
                if dtype:
                    raise
                warnings.append(f"{name}: n/a, {error}")
                continue
            results.append(result)
            if not result.details["is_steady"]:
                warnings.append(f"{name}: a lower bound, the machine was not quiet: measure again when it is idle")
            if not keep_peak(kept, machine, result):
                warnings.append(f"{name}: a better measurement of this machine is kept as its denominator")
            if result.fraction is not None and result.fraction > 1:
                warnings.append(f"{name}: {units.format_percent(result.fraction)} of the datasheet: it clocks higher")
    asked = request(dtype=list(dtype), device=device, quick=quick)
    emit(
        make_record("peak", environment=environment(machine), request=asked, results=results, warnings=warnings), output
    )
