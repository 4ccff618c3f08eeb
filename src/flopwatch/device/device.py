"""Device and Peak: one device variant, and one published ceiling of it, as frozen data."""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

DTYPES: Final = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp6", "fp4")
"""The number formats that a peak can be given for."""

PeakKind = Literal["datasheet", "user", "notebook", "measured"]


def name_key(name: str) -> str:
    """The name without case, spacing and punctuation: `NVIDIA A100-SXM4-40GB` is `nvidia a100 sxm4 40gb`."""
    return " ".join(re.findall(r"[^\W_]+", name.casefold()))


class Peak(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ceiling: a dtype on one kind of unit. `dense_flops_per_s` is the denominator; `sparse` is only shown.

    `basis` says how the figure came: listed by the vendor, derived as `flops_per_clock` (of one SM) x SMs x
    `clock_hz`, or a formula that waits for a clock. `is_default` marks the row that a matmul of that dtype is
    divided by. `measured_flops_per_s` is the best that others have published, for orientation.
    """

    dtype: str
    unit: str
    source: str
    accumulate: str | None = None
    is_default: bool = False
    dense_flops_per_s: float | None = None
    sparse_flops_per_s: float | None = None
    basis: Literal["listed", "derived", "formula"] | None = None
    flops_per_clock: int | None = None
    clock_hz: float | None = None
    confidence: Literal["A", "B", "C"] | None = None
    measured_flops_per_s: float | None = None
    measured_source: str | None = None
    note: str | None = None
    kind: PeakKind = "datasheet"


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device variant: the names its driver reports, what tells it from its namesakes, and its peaks.

    `unit` is what the figures are for; the framework may see `framework_devices_per_unit` devices in it.
    `sm_count` is SMs, CUs, EUs or GPU cores; with `exact_sm_count` another count is another device.
    """

    vendor: str
    device: str
    variant: str = ""
    unit: str = "GPU"
    framework_devices_per_unit: int = 1
    names: tuple[str, ...] = ()
    sm_count: int | None = None
    exact_sm_count: bool = False
    n_matrix_engines: int | None = None
    memory_gib: float | None = None
    bandwidth_bytes_per_s: float | None = None
    l2_mib: float | None = None
    interconnect: str | None = None
    power_w: float | None = None
    boost_clock_hz: float | None = None
    note: str | None = None
    peaks: tuple[Peak, ...] = ()
    origin: Literal["catalogue", "user"] = "catalogue"

    @property
    def label(self) -> str:
        """Device and variant as one name: `A100 SXM4 40GB`."""
        return f"{self.device} {self.variant}".strip()

    @property
    def memory_bytes(self) -> int | None:
        """Nominal memory; vendors write GB and mean GiB."""
        return None if self.memory_gib is None else int(self.memory_gib * 2**30)

    def peak(self, dtype: str) -> Peak | None:
        """The dense ceiling that a matmul of `dtype` is divided by; None when there is none (see `why_no_peak`)."""
        for peak in self.peaks:
            if peak.dtype == dtype and peak.is_default and peak.dense_flops_per_s is not None:
                return peak
        return None

    def why_no_peak(self, dtype: str) -> str | None:
        """Why `peak` has no answer for `dtype`, with the way out; None when it has one."""
        if self.peak(dtype) is not None:
            return None
        rows = [peak for peak in self.peaks if peak.dtype == dtype]
        if dtype not in DTYPES:
            return f"{dtype} is no dtype of the catalogue ({', '.join(DTYPES)})"
        if any(peak.basis == "formula" for peak in rows):
            return f"the peak of {self.label} depends on its clock under load: measure it with `flopwatch peak`"
        if not rows:
            known = sorted({peak.dtype for peak in self.peaks if peak.is_default}, key=DTYPES.index)
            return f"{self.label} has no {dtype} matmul peak (it has {', '.join(known) or 'none'})"
        if all(peak.dense_flops_per_s is None for peak in rows):
            return f"no published {dtype} peak of {self.label} was found: give --peak-tflops"
        return f"no published {dtype} figure of {self.label} is a matmul's ceiling: give --peak-tflops"

    def peak_source(self, dtype: str) -> str | None:
        """Where the peak comes from, as it is printed: `A100 SXM4 40GB bf16 dense, datasheet`."""
        peak = self.peak(dtype)
        if peak is None:
            return None
        if peak.kind == "user":
            return f"{self.label} {dtype}, user's device file"
        how = "derived from SMs x clock" if peak.basis == "derived" else "datasheet"
        return f"{self.label} {dtype} dense, {how}"
