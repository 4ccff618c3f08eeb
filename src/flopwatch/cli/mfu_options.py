"""The options of `flopwatch mfu`: how fast the run was, on what, and how it is counted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from flopwatch.cli.options import Count, Rate
from flopwatch.compare.mfu import PeakSet
from flopwatch.compare.throughput import Throughput
from flopwatch.cost.convention import Convention, convention_names, find_convention, load_conventions
from flopwatch.errors import InputError

PeakDType = Literal["fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp6", "fp4"]


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ThroughputOptions:
    """How fast the run was: one way of saying it."""

    tokens_per_s: Rate | None = None
    """Tokens per second, all devices together."""
    tokens_per_s_per_device: Rate | None = None
    """Tokens per second of one device."""
    step_s: float | None = None
    """Seconds of one step; needs --batch."""
    batch: Count | None = None
    """Sequences in one step, all devices and accumulated micro-batches together."""
    samples_per_s: Rate | None = None
    """Sequences per second, all devices together."""
    days: float | None = None
    """Days that --tokens took."""
    tokens: Count | None = None
    """Tokens that were trained on in --days: 300B, 1.4T."""
    n_devices: Count = 1
    """Devices that worked on it."""

    def throughput(self) -> Throughput:
        """The run's speed; raises InputError when it is missing or contradicts itself."""
        return Throughput(**dataclasses.asdict(self))


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PeakOptions:
    """What the device could do: the denominator."""

    device: str | None = None
    """The device's name, as its driver reports it or as people write it: A100 SXM."""
    dtype: PeakDType = "bf16"
    """The dtype of the matmuls, and so the peak that they are divided by."""
    attention_dtype: PeakDType | None = None
    """The dtype of scores and values, where it is another one: the peaks are weighted."""
    head_dtype: PeakDType | None = None
    """The dtype of the output head, where it is another one."""
    peak_tflops: Annotated[tuple[str, ...], Parameter(consume_multiple=False, negative="")] = ()
    """A peak of your own in TFLOP/s of one device, for --dtype or like bf16=989.4 (repeatable); wins over --device."""
    peak_set: PeakSet = "datasheet"
    """Which table: datasheet, or the notebook's own with its own rule for names."""

    def peaks(self) -> dict[str, float]:
        """The user's peaks by dtype in TFLOP/s; raises InputError for one that is no number."""
        found: dict[str, float] = {}
        for text in self.peak_tflops:
            name, sign, number = text.rpartition("=")
            dtype = name.strip() if sign else self.dtype
            try:
                value = float(number)
            except ValueError as error:
                hint = "write it like 312 or bf16=312"
                raise InputError(f"--peak-tflops {text!r} is not a number of TFLOP/s", hint=hint) from error
            if dtype in found and found[dtype] != value:
                raise InputError(f"--peak-tflops gives two peaks for {dtype}", hint="give one for each dtype")
            found[dtype] = value
        if found and self.peak_set != "datasheet":
            raise InputError(f"--peak-tflops and --peak-set {self.peak_set} both give a peak", hint="give one of them")
        return found


def conventions(name: str, file: Path | None) -> list[Convention]:
    """The conventions that are asked for: the named one, or for `all` every one that is known."""
    own = load_conventions(file) if file is not None else {}
    if name == "all":
        return [find_convention(each, own) for each in (*convention_names(), *own)]
    return [find_convention(name, own)]
