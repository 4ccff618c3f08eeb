"""What is known of batches that were timed: each one's Reading, and what the curve through them says. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

LEAST_SAME: Final = 0.005
_MOST_SAME: Final = 0.01  # batches this near to the best are as good, by how noisy the best is; LEAST_SAME at least


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one batch: tokens/s with the interval of its median, and the peak memory; or that it did not run."""

    batch: int
    outcome: Literal["ok", "oom", "failed"] = "ok"
    tokens_per_s: float = 0.0
    low: float = 0.0
    high: float = 0.0
    peak_bytes: int | None = None


def best_of(readings: Sequence[Reading]) -> Reading | None:
    """The smallest batch that is as good as the best, within its noise and a percent at most; None when none ran."""
    ran = that_ran(readings)
    if not ran:
        return None
    top = max(ran, key=lambda reading: reading.tokens_per_s)
    least = top.tokens_per_s * (1 - min(max(noise_of(top), LEAST_SAME), _MOST_SAME))
    return next(reading for reading in ran if reading.tokens_per_s >= least)


def tokens_per_s_at(readings: Sequence[Reading], batch: int) -> float | None:
    """Tokens/s read off the curve, straight between neighbours over the logarithm; None outside of what was timed."""
    ran = that_ran(readings)
    for below, above in zip(ran, [*ran[1:], ran[-1]] if ran else [], strict=True):
        if below.batch == batch:
            return below.tokens_per_s
        if below.batch < batch < above.batch:
            share = math.log(batch / below.batch) / math.log(above.batch / below.batch)
            return below.tokens_per_s + share * (above.tokens_per_s - below.tokens_per_s)
    return None


def micro_batch_of(readings: Sequence[Reading], global_batch: int) -> int | None:
    """The divisor of `global_batch` that runs fastest by the curve, the smaller within a percent; None without any."""
    rates = {batch: rate for batch in _divisors(global_batch) if (rate := tokens_per_s_at(readings, batch)) is not None}
    if not rates:
        return None
    least = max(rates.values()) * (1 - LEAST_SAME)
    return min(batch for batch, rate in rates.items() if rate >= least)


def noise_of(reading: Reading) -> float:
    """Half the width of the reading's interval, as a fraction of it."""
    return (reading.high - reading.low) / 2 / reading.tokens_per_s


def _divisors(n: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})


def that_ran(readings: Sequence[Reading]) -> list[Reading]:
    """Those that did not fail, by batch."""
    return sorted((r for r in readings if r.outcome == "ok"), key=lambda reading: reading.batch)
