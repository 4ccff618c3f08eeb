"""Timing: what follows from samples. Median and spread, how sure the median is, and what looks wrong with them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import correlation, median
from typing import Final

import msgspec

from flopwatch.errors import ProbeError
from flopwatch.record import StepTime

_N_RESAMPLES: Final = 1000
_CONFIDENCE: Final = 0.95
_FEWEST_FOR_BLOCKS: Final = 12
_SURELY: Final = 2.0  # standard errors of a correlation that is none
_FAR_OUT: Final = 5.0  # in robust standard deviations
_NORMAL_MAD: Final = 1.4826  # standard deviation of normal samples over their median absolute deviation
_DRIFT_FRACTION: Final = 0.10
_WIDE_FRACTION: Final = 0.25


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds a step: every sample, and what follows from them.

    `median_low_s` to `median_high_s` holds the true median with 95 % confidence (bootstrap, in blocks where neighbours
    are alike), if there are five samples or more (of three it is 75 %); where all of them drift together it is too
    narrow. Outliers are counted, not thrown away: the median does not feel them. `notes` says in plain words what makes
    the figure less sure.
    """

    samples_s: list[float]
    median_s: float
    p10_s: float
    p90_s: float
    median_low_s: float
    median_high_s: float
    n_outliers: int
    n_warmup: int
    is_steady: bool
    notes: list[str]

    def step_time(self) -> StepTime:
        """The part of it that stands in the record."""
        return StepTime(median=self.median_s, p10=self.p10_s, p90=self.p90_s, samples=self.samples_s)


def timing_of(samples_s: Sequence[float], *, n_warmup: int, is_steady: bool = True) -> Timing:
    """The Timing of samples in the order they were taken; raises ProbeError for none, or for one that took no time."""
    if not samples_s:
        raise ProbeError("there are no samples", hint="a timing needs at least one")
    if min(samples_s) <= 0:
        raise ProbeError(f"a step took {min(samples_s):g} s", hint="the clock went backwards or stood still")
    ordered = sorted(samples_s)
    low_s, high_s = interval_of_median(samples_s)
    n_outliers = _count_outliers(samples_s)
    timing = Timing(
        samples_s=list(samples_s),
        median_s=median(ordered),
        p10_s=quantile(ordered, 0.10),
        p90_s=quantile(ordered, 0.90),
        median_low_s=low_s,
        median_high_s=high_s,
        n_outliers=n_outliers,
        n_warmup=n_warmup,
        is_steady=is_steady,
        notes=[],
    )
    return msgspec.structs.replace(timing, notes=_notes(timing))


def quantile(ordered: Sequence[float], fraction: float) -> float:
    """The value below which `fraction` of the sorted values lie, interpolated between neighbours (as numpy does)."""
    place = fraction * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def interval_of_median(samples: Sequence[float]) -> tuple[float, float]:
    """Where the medians of resamples fall; seeded, so that the same samples always give the same interval.

    Samples that are like their neighbours are resampled in blocks (circular block bootstrap): a machine whose speed
    drifts makes many samples say no more than few.
    """
    draw = random.Random(len(samples))  # noqa: S311 - statistics, not secrets
    size = _n_alike(samples)
    twice = [*samples, *samples]
    medians = []
    for _ in range(_N_RESAMPLES):
        if size == 1:
            medians.append(median(draw.choices(samples, k=len(samples))))
            continue
        starts = draw.choices(range(len(samples)), k=math.ceil(len(samples) / size))
        resample = [sample for start in starts for sample in twice[start : start + size]]
        medians.append(median(resample[: len(samples)]))
    medians.sort()
    tail = (1 - _CONFIDENCE) / 2
    return quantile(medians, tail), quantile(medians, 1 - tail)


def _n_alike(samples: Sequence[float]) -> int:
    """How many samples in a row are alike: 1 unless neighbours are surely correlated, a quarter of them at most.

    Of samples each of which is `r` times the one before, and something new, (1 + r) / (1 - r) are worth one.
    """
    if len(samples) < _FEWEST_FOR_BLOCKS:
        return 1
    ordered = sorted(samples)
    low, high = quantile(ordered, 0.1), quantile(ordered, 0.9)
    inner = [min(max(sample, low), high) for sample in samples]  # an outlier is no neighbour's doing
    if min(inner[:-1]) == max(inner[:-1]) or min(inner[1:]) == max(inner[1:]):
        return 1
    r = correlation(inner[:-1], inner[1:])
    if r < _SURELY / math.sqrt(len(samples)):
        return 1
    most = len(samples) // 4
    return most if r >= 1 else min(math.ceil((1 + r) / (1 - r)), most)


def _count_outliers(samples_s: Sequence[float]) -> int:
    middle = median(samples_s)
    deviation = _NORMAL_MAD * median(abs(sample - middle) for sample in samples_s)
    reach = max(_FAR_OUT * deviation, 0.01 * middle)  # equal samples have no spread: a percent is no outlier
    return sum(abs(sample - middle) > reach for sample in samples_s)


def _notes(timing: Timing) -> list[str]:
    notes = []
    if not timing.is_steady:
        notes.append("warm-up was cut off while steps were still getting faster: the step may be faster than this")
    third = len(timing.samples_s) // 3
    if third >= 2:
        drift = median(timing.samples_s[-third:]) / median(timing.samples_s[:third]) - 1
        if abs(drift) > _DRIFT_FRACTION:
            way = "slower" if drift > 0 else "faster"
            notes.append(f"steps got {abs(drift):.0%} {way} while they were timed (heat, or other work on the machine)")
    width = (timing.p90_s - timing.p10_s) / timing.median_s
    if width > _WIDE_FRACTION:
        notes.append(f"samples differ by {width:.0%} of the median (p10 to p90): the machine is not quiet")
    if timing.n_outliers:
        notes.append(
            f"{timing.n_outliers} of {len(timing.samples_s)} samples lie far out; the median does not feel them"
        )
    return notes
