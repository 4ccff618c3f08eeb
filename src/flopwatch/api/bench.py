"""fw.bench: how fast a step runs here, with MFU and HFU against the datasheet's peak and the one measured here."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import msgspec

from flopwatch.api.bandwidth import bandwidth_ceilings, cache_bytes
from flopwatch.api.count import default_seq_len, resolve_spec
from flopwatch.compare.bench import bench_result
from flopwatch.compare.utilization import Ceiling
from flopwatch.cost.convention import DEFAULT, find_convention
from flopwatch.device.machine import Machine
from flopwatch.errors import FlopwatchError
from flopwatch.measure.bench import BenchRequest, bench_step
from flopwatch.measure.dtype import default_dtype
from flopwatch.measure.limit import free_limit
from flopwatch.measure.peak import QUICK_S, StoredPeak, measure_peak, peak_here
from flopwatch.measure.series import ProbeSeries, Progress
from flopwatch.model.spec import ModelSpec
from flopwatch.record import BenchResult, PeakResult
from flopwatch.store import Store
from flopwatch.workload import Workload


def bench(
    model: str | ModelSpec,
    workload: Workload | None = None,
    *,
    device: str = "auto",
    convention: str = DEFAULT,
    timeout_s: float = 1800.0,
    changes: Mapping[str, str] | None = None,
    series: ProbeSeries | None = None,
    machine: Machine | None = None,
    store: Store | None = None,
) -> BenchResult:
    """How long a step of `workload` takes, in a process of its own: tokens/s, FLOP/s, MFU, HFU, peak memory.

    At least five samples after warm-up. The peak of this machine comes from `store` while it holds there, else it is
    measured in a few seconds. Raises DoesNotFitError when the step runs out of memory, ProbeError when it fails.
    """
    series = series if series is not None else ProbeSeries()
    machine = machine or series.machine(device)
    spec = resolve_spec(model, changes)
    request = BenchRequest(
        spec=spec,
        workload=workload or Workload(seq_len=default_seq_len(spec), phase="train", dtype=default_dtype(machine)),
        limit=free_limit(series, machine),
        device=machine.torch_device,
        timeout_s=timeout_s,
    )
    rule = find_convention(convention)
    measured = bench_step(request, series)
    dtype = request.workload.dtype
    ceilings = [datasheet_ceiling(machine, dtype), measured_ceiling(machine, dtype, series, store=store)]
    is_decode = request.workload.phase == "decode"
    return bench_result(
        request,
        measured,
        device_name=machine.name,
        convention=rule,
        ceilings=ceilings,
        bandwidths=bandwidth_ceilings(machine, dtype, series, store=store) if is_decode else (),
        cache_bytes=cache_bytes(machine),
    )


def datasheet_ceiling(machine: Machine, dtype: str) -> Ceiling:
    """The published peak of the machine's device, or the reason why there is none."""
    device = machine.device
    peak = device.peak(dtype) if device is not None else None
    if device is None or peak is None or peak.dense_flops_per_s is None:
        reason = machine.why_no_device if device is None else device.why_no_peak(dtype)
        return Ceiling(kind="datasheet", reason=reason or f"no published {dtype} peak is known")
    source = device.peak_source(dtype) or device.label
    return Ceiling(kind="datasheet", flops_per_s={dtype: peak.dense_flops_per_s}, sources={dtype: source})


def measured_ceiling(machine: Machine, dtype: str, series: ProbeSeries, *, store: Store | None) -> Ceiling:
    """The peak measured on this machine: the stored one, or a quick measurement; or the reason why there is none."""
    label = f"measuring the {dtype} peak of this machine"
    try:
        if store is not None:
            peak = peak_here(dtype, machine, store, on_measure=lambda _why: series.watch(Progress(label=label)))
        else:
            peak = _quick_peak(machine, dtype, series, label)
    except FlopwatchError as error:
        return Ceiling(kind="measured", reason=str(error))
    return Ceiling(kind="measured", flops_per_s={dtype: peak.result.flops_per_s}, sources={dtype: peak.source})


def _quick_peak(machine: Machine, dtype: str, series: ProbeSeries, label: str) -> StoredPeak:
    def find() -> dict[str, Any]:
        series.watch(Progress(label=label))
        result: dict[str, Any] = msgspec.to_builtins(measure_peak(dtype, machine, budget_s=QUICK_S))
        return result

    result = msgspec.convert(series.decide(f"peak {dtype} {machine.name}", find), PeakResult)
    return StoredPeak(result=result, created=dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
