"""The peaks that a benchmark is set against: the datasheet's, and the one measured on this machine."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from flopwatch.compare.utilization import Ceiling
from flopwatch.device.machine import Machine
from flopwatch.errors import FlopwatchError
from flopwatch.measure.peak import QUICK_S, StoredPeak, measure_peak, peak_here
from flopwatch.measure.series import ProbeSeries, Progress
from flopwatch.record import PeakResult
from flopwatch.store import Store


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
