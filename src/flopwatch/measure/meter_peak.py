"""The peak that a meter divides by: the user's, or the published one of the device that is here or named."""

from __future__ import annotations

import dataclasses
from math import isfinite
from typing import Final

from flopwatch.device.catalog import load_device
from flopwatch.device.detect import detect
from flopwatch.device.device import DTYPES, Device
from flopwatch.errors import InputError
from flopwatch.measure.meter_cost import is_number

_MACHINE_WORDS: Final = ("auto", "cpu", "cuda", "rocm", "xpu", "mps")
_LEAST_FLOPS_PER_S: Final = 1e8  # below it the figure is in GFLOP/s or TFLOP/s
_WAY_OUT: Final = "give peak_flops_per_s"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MeterPeak:
    """The peak of one device as the framework sees it, and where it comes from; or why there is none."""

    flops_per_s: float | None = None
    source: str | None = None
    reason: str | None = None


def find_peak(device: str = "auto", *, dtype: str = "bf16", peak_flops_per_s: float | None = None) -> MeterPeak:
    """The peak to divide by: `peak_flops_per_s` when given, else the dense one of `dtype` that is published.

    `device` is a name in the catalogue, or what of this machine is used: `auto`, `cpu`, `cuda`, `cuda:1`, ... A device
    without a published peak gives the reason. Raises InputError for a name that nothing has, or a peak that is none.
    """
    if dtype not in DTYPES:
        raise InputError(f"{dtype!r} is no dtype that peaks are given for", hint=f"there are {', '.join(DTYPES)}")
    if peak_flops_per_s is not None:
        return MeterPeak(flops_per_s=_checked(peak_flops_per_s), source=f"{dtype}, given")
    if device.partition(":")[0] not in _MACHINE_WORDS:
        return _published(load_device(device, dtype=dtype), dtype)
    machine = detect(device)
    if machine.device is None:
        return MeterPeak(reason=f"{machine.why_no_device or f'{machine.name} has no published peak'}; or {_WAY_OUT}")
    return _published(machine.device, dtype)


def _published(device: Device, dtype: str) -> MeterPeak:
    """The device's own figure, for each of the devices that the framework sees in one unit of it."""
    peak = device.peak(dtype)
    if peak is None or peak.dense_flops_per_s is None:
        return MeterPeak(reason=device.why_no_peak(dtype) or _WAY_OUT)
    share = device.framework_devices_per_unit
    source = device.peak_source(dtype) or device.label
    if share > 1:
        source = f"{source}, one of {share} devices in a {device.unit}"
    return MeterPeak(flops_per_s=peak.dense_flops_per_s / share, source=source)


def _checked(peak_flops_per_s: float) -> float:
    if not (is_number(peak_flops_per_s) and isfinite(peak_flops_per_s) and peak_flops_per_s > 0):
        raise InputError(f"peak_flops_per_s={peak_flops_per_s} is not above zero", hint="give the peak of one device")
    if peak_flops_per_s < _LEAST_FLOPS_PER_S:
        raise InputError(
            f"peak_flops_per_s={peak_flops_per_s:g} is less than any device does",
            hint=f"it is in FLOP/s: is {peak_flops_per_s:g}e12 meant?",
        )
    return float(peak_flops_per_s)
