"""Devices as results: what `flopwatch devices` puts into its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from flopwatch.device.device import Device, Peak
from flopwatch.device.machine import Machine
from flopwatch.record import DeviceResult, PeakRow


def device_result(device: Device, *, dtype: str | None = None) -> DeviceResult:
    """A device with its peaks, all of them or those of one dtype, each with its source."""
    peaks = [peak for peak in device.peaks if dtype in {None, peak.dtype}]
    return DeviceResult(
        vendor=device.vendor,
        device=device.device,
        variant=device.variant,
        peaks=[_peak_row(peak) for peak in peaks],
        memory_bytes=device.memory_bytes,
        bandwidth_bytes_per_s=device.bandwidth_bytes_per_s,
        details=_details(device, peaks),
    )


def machine_result(
    machine: Machine, *, dtype: str | None = None, measured: Sequence[Mapping[str, Any]] = ()
) -> DeviceResult:
    """This machine's device: what it reports of itself, with the peaks of its row of the catalogue if it has one.

    `measured` are the peaks that were measured here, kept beside them and never among them.
    """
    row = machine.device
    peaks = [] if row is None else [peak for peak in row.peaks if dtype in {None, peak.dtype}]
    return DeviceResult(
        vendor=machine.kind.upper(),
        device=machine.name,
        variant="(this machine)",
        peaks=[_peak_row(peak) for peak in peaks],
        memory_bytes=machine.memory_total_bytes,
        bandwidth_bytes_per_s=None if row is None else row.bandwidth_bytes_per_s,
        details={
            "catalogue": None if row is None else row.label,
            "why_no_peaks": machine.why_no_device,
            "measured_peaks": [dict(peak) for peak in measured if dtype in {None, peak["dtype"]}],
            "memory_free_bytes": machine.memory_free_bytes,
            "cpu": msgspec.to_builtins(machine.cpu),
            "accelerator": msgspec.to_builtins(machine.accelerator),
        },
    )


def _peak_row(peak: Peak) -> PeakRow:
    return PeakRow(
        dtype=peak.dtype,
        unit=peak.unit,
        accumulate=peak.accumulate,
        dense_flops_per_s=peak.dense_flops_per_s,
        sparse_flops_per_s=peak.sparse_flops_per_s,
        source=f"{peak.source} ({peak.basis})" if peak.basis else peak.source,
        is_default=peak.is_default,
        confidence=peak.confidence,
    )


def _details(device: Device, peaks: list[Peak]) -> dict[str, Any]:
    """What else is known of the device, without the fields that are unknown."""
    known = {
        "names": list(device.names),
        "origin": device.origin,
        "unit": device.unit,
        "framework_devices_per_unit": device.framework_devices_per_unit,
        "sm_count": device.sm_count,
        "l2_mib": device.l2_mib,
        "boost_clock_hz": device.boost_clock_hz,
        "interconnect": device.interconnect,
        "power_w": device.power_w,
        "note": device.note,
        "notes": {f"{peak.dtype} {peak.unit}": peak.note for peak in peaks if peak.note},
        "published_measurements": [
            {"dtype": peak.dtype, "flops_per_s": peak.measured_flops_per_s, "source": peak.measured_source}
            for peak in peaks
            if peak.measured_flops_per_s
        ],
    }
    return {name: value for name, value in known.items() if value not in (None, [], {})}
