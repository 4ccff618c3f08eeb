"""The memory bandwidths that decoding is set against: the datasheet's, and the one measured on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from flopwatch.compare.decode import BandwidthCeiling
from flopwatch.device.machine import Machine
from flopwatch.errors import FlopwatchError
from flopwatch.measure.peak import find_stored_peak, measure_bandwidth
from flopwatch.measure.series import ProbeSeries, Progress
from flopwatch.store import Store

_QUICK_S: Final = 1.0


def bandwidth_ceilings(
    machine: Machine, dtype: str, series: ProbeSeries, *, store: Store | None
) -> Sequence[BandwidthCeiling]:
    """Both bandwidths, each with its source, or with the reason why it is not known."""
    return [datasheet_bandwidth(machine), _measured(machine, dtype, series, store=store)]


def cache_bytes(machine: Machine) -> int:
    """The last cache before memory, as far as it is known; 0 where it is not."""
    if machine.kind == "cpu":
        return machine.cpu.cache_bytes or 0
    device = machine.device
    return int((device.l2_mib or 0) * 2**20) if device is not None else 0


def datasheet_bandwidth(machine: Machine) -> BandwidthCeiling:
    """The published bandwidth of the machine's device, or the reason why it is not known."""
    device = machine.device
    if machine.kind == "cpu":
        reason = "a CPU's bandwidth depends on the memory modules beside it"
        return BandwidthCeiling(kind="datasheet", reason=reason)
    if device is None:
        reason = machine.why_no_device or "no datasheet of this device is known"
        return BandwidthCeiling(kind="datasheet", reason=reason)
    if device.bandwidth_bytes_per_s is None:
        return BandwidthCeiling(kind="datasheet", reason=f"no bandwidth of {device.label} is published")
    return BandwidthCeiling(kind="datasheet", bytes_per_s=device.bandwidth_bytes_per_s, source=device.label)


def _measured(machine: Machine, dtype: str, series: ProbeSeries, *, store: Store | None) -> BandwidthCeiling:
    """What `flopwatch peak` has measured while it holds, else a measurement of about a second."""
    stored = find_stored_peak(store, machine, dtype) if store is not None else None
    if stored is not None and stored.holds and stored.result.bandwidth_bytes_per_s is not None:
        source = f"copy and triad measured here on {stored.created[:10]}"
        if not stored.is_steady:
            source += " while the machine was busy"
        return BandwidthCeiling(kind="measured", bytes_per_s=stored.result.bandwidth_bytes_per_s, source=source)

    def find() -> dict[str, Any]:
        series.watch(Progress(label="measuring the memory bandwidth of this machine"))
        return measure_bandwidth(machine, budget_s=_QUICK_S)

    try:
        found = series.decide(f"bandwidth {machine.name}", find)
    except FlopwatchError as error:
        return BandwidthCeiling(kind="measured", reason=str(error))
    return BandwidthCeiling(
        kind="measured", bytes_per_s=found["bytes_per_s"], source="copy and triad measured here, now"
    )
