"""The search for the batch with the most tokens a second: pure, it only says which batch to time next.

Double while it pays, stop when tokens/s falls steeply, does not rise twice in a row or memory ends, then look closer
around the best. Those that come near it are timed in turn, so that no drift of the machine decides; where that cannot
be, the best is timed once more. Of batches that differ by less than the noise the smaller is taken: it leaves memory,
and waits less for a step.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Final

import msgspec

from flopwatch.measure.batch_curve import LEAST_SAME, Reading, best_of, noise_of, that_ran

_GAIN: Final = 0.01  # a doubling that brings less is not worth it; twice less than that is left beyond it
_FALL: Final = 0.02
_STEEP: Final = 0.1
_ALIKE: Final = 0.03
_NO_GAIN: Final = 0.02  # between two batches that differ by less nothing is gained
_MOST_CLOSER: Final = 5
_MOST_AGAIN: Final = 2
_RIVAL: Final = 0.05  # a batch this near to the best may be the best: what one process says is off by half as much
_FINALIST: Final = 0.12  # or by so much, on a machine whose speed drifts: what lies within is timed in turn
_MOST_FINALISTS: Final = 3
_NEAR: Final = 0.15  # of the span: a try nearer than that to the best says nothing new
_LEAST_APART, _MOST_APART = 0.03, 0.15  # nor does one that differs by less than twice the noise
_GOLDEN: Final = 0.382
_FILL: Final = 0.99  # how full a batch between one that ran and one that did not may make the memory


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """What to time next: one batch, or several in turn, all in memory at once.

    `is_more`: the batch was timed before, and the Reading wanted is that of all its samples.
    """

    batches: tuple[int, ...]
    is_more: bool = False


Search = Generator[Try, Sequence[Reading], "BestBatch"]
"""Yields the Try to make next and is sent its Readings, in the order of its batches."""


class BestBatch(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a search: the batch to use (None when not even the first ran), every reading, and why it ended."""

    best: Reading | None
    readings: list[Reading]
    n_runs: int
    end: str


def search_best_batch(*, max_batch: int, limit_bytes: int | None = None, takes_turns: bool = False) -> Search:
    """The search; it returns the BestBatch.

    Before a steep fall of tokens/s ends the doubling, the batch before it is timed once more: when that has fallen as
    well it is the machine that became slower, and what was timed before counts in proportion (the BestBatch holds it
    so). At the end the nearest are timed in turn, when the hardware `takes_turns` and their memory together is within
    `limit_bytes`; else the best is timed once more, when another is near: the fastest of several readings owes a part
    of it to luck. `max_batch` is the largest that may be timed. There are at most a third as many runs as batches up
    to it, but for the doublings themselves.
    """
    readings: dict[int, Reading] = {}
    n_runs, end = yield from _double(readings, max_batch)
    most = min(n_runs + _MOST_CLOSER + _MOST_FINALISTS, max_batch // 3)

    def finalists() -> tuple[int, ...]:
        return _finalists(list(readings.values()), limit_bytes, most=most - n_runs) if takes_turns else ()

    for _ in range(_MOST_CLOSER):
        if n_runs + max(1, len(finalists())) >= most:
            break
        closer = _closer(list(readings.values()), limit_bytes)
        if closer is None:
            break
        readings[closer] = (yield Try(batches=(closer,)))[0]
        n_runs += 1
    final = finalists()
    if final:
        _take_in(readings, (yield Try(batches=final)))
        n_runs += len(final)
    else:
        n_runs = yield from _top_once_more(readings, n_runs, most)
    found = sorted(readings.values(), key=lambda reading: reading.batch)
    return BestBatch(best=best_of(found), readings=found, n_runs=n_runs, end=end)


def _double(readings: dict[int, Reading], max_batch: int) -> Generator[Try, Sequence[Reading], tuple[int, str]]:
    """1, 4 and on by doubling into `readings`; returns the runs that it took and why it ended."""
    batch, end, n_runs, is_confirmed = 1, "", 0, False
    while not end:
        readings[batch] = (yield Try(batches=(batch,)))[0]
        n_runs += 1
        top = _top_below(readings, batch)
        if top is not None and _falls(readings[batch], top, by=_STEEP) and not is_confirmed:
            again = (yield Try(batches=(top.batch,)))[0]
            n_runs, is_confirmed = n_runs + 1, True
            _take_again(readings, top, again)
        end = _why_end(readings, batch, max_batch)
        batch = min(4 if batch == 1 else 2 * batch, max_batch)
    return n_runs, end


def _top_once_more(readings: dict[int, Reading], n_runs: int, most: int) -> Generator[Try, Sequence[Reading], int]:
    """Time the best again, while another is near it, into `readings`; returns the runs so far."""
    twice: set[int] = set()
    while n_runs < most and len(twice) < _MOST_AGAIN:
        top = _contested(list(readings.values()))
        if top is None or top.batch in twice:
            break
        twice.add(top.batch)
        again = (yield Try(batches=(top.batch,), is_more=True))[0]
        n_runs += 1
        readings[top.batch] = again if again.outcome == "ok" else top
    return n_runs


def _finalists(readings: Sequence[Reading], limit_bytes: int | None, *, most: int) -> tuple[int, ...]:
    """Two or more batches to be timed in turn, the fastest first; none when there are no two that fit beside another.

    Of several that are near, the best is kept, then whoever else is fastest, as long as memory allows.
    """
    ran = sorted(that_ran(readings), key=lambda reading: -reading.tokens_per_s)
    chosen: list[Reading] = []
    for reading in ran:
        if len(chosen) == min(most, _MOST_FINALISTS) or reading.tokens_per_s < ran[0].tokens_per_s * (1 - _FINALIST):
            break
        taken = [one.peak_bytes for one in (*chosen, reading)]
        if limit_bytes is not None and sum(n if n is not None else limit_bytes for n in taken) > limit_bytes:
            if not chosen:
                return ()
            continue
        chosen.append(reading)
    return tuple(reading.batch for reading in chosen) if len(chosen) > 1 else ()


def _contested(readings: Sequence[Reading]) -> Reading | None:
    """The fastest, when another is near enough that it may be the faster one; None otherwise."""
    ran = sorted(that_ran(readings), key=lambda reading: -reading.tokens_per_s)
    is_near = len(ran) > 1 and ran[1].tokens_per_s > ran[0].tokens_per_s * (1 - _RIVAL)
    return ran[0] if is_near else None


def _why_end(readings: dict[int, Reading], batch: int, max_batch: int) -> str:
    """Why no larger batch is timed after `batch`; empty when there is to be one."""
    last = readings[batch]
    if last.outcome != "ok":
        return f"batch {batch} ran out of memory" if last.outcome == "oom" else f"batch {batch} did not run"
    top = _top_below(readings, batch)
    if top is not None:
        if _falls(last, top, by=_STEEP):
            return f"tokens/s falls at batch {batch}"
        *before, one, two = (reading.tokens_per_s for _, reading in sorted(readings.items()))
        if before and max(one, two) < max(before) * (1 + _GAIN):
            return f"tokens/s stays flat up to batch {batch}"
    return f"batch {batch} is the largest that may be tried" if batch >= max_batch else ""


def _take_in(readings: dict[int, Reading], in_turn: Sequence[Reading]) -> None:
    """Take in batches that were timed in turn: all others are taken to have become faster or slower as they have."""
    before = sum(readings[reading.batch].tokens_per_s for reading in in_turn)
    _scale(readings, sum(reading.tokens_per_s for reading in in_turn) / before)
    readings |= {reading.batch: reading for reading in in_turn}


def _take_again(readings: dict[int, Reading], top: Reading, again: Reading) -> None:
    """Take in that `top` was timed again: when it became slower, all that was timed before it is taken to have too."""
    if again.outcome != "ok":
        return
    if _falls(again, top, by=_FALL):
        smaller = {batch: old for batch, old in readings.items() if batch < top.batch}
        _scale(smaller, again.tokens_per_s / top.tokens_per_s)
        readings |= smaller
    readings[top.batch] = again


def _scale(readings: dict[int, Reading], share: float) -> None:
    for batch, old in readings.items():
        readings[batch] = msgspec.structs.replace(
            old, tokens_per_s=old.tokens_per_s * share, low=old.low * share, high=old.high * share
        )


def _top_below(readings: dict[int, Reading], batch: int) -> Reading | None:
    below = [reading for reading in readings.values() if reading.batch < batch]
    return max(below, key=lambda reading: reading.tokens_per_s, default=None)


def _falls(last: Reading, top: Reading, *, by: float) -> bool:
    """Whether `last` ran, and slower than `top` by that fraction and by more than both intervals allow."""
    return last.outcome == "ok" and last.tokens_per_s < top.tokens_per_s * (1 - by) and last.high < top.low


def _closer(readings: Sequence[Reading], limit_bytes: int | None) -> int | None:
    """The next batch near the best that may be better by a percent; None when there is none."""
    ordered = sorted(readings, key=lambda reading: reading.batch)
    ran = that_ran(ordered)
    if not ran:
        return None
    top = max(ran, key=lambda reading: reading.tokens_per_s)
    place = ordered.index(top)
    left = ordered[place - 1] if place else None
    right = ordered[place + 1] if place + 1 < len(ordered) else None
    if right is not None and right.outcome != "ok":
        return _below_failure(left, top, right, limit_bytes)
    for one, other in ((left, top), (top, right)):
        if one is None or other is None:
            continue
        gap = abs(one.tokens_per_s / other.tokens_per_s - 1)
        inside = _in_hump(ordered, one, other) if gap < _ALIKE else None
        if inside is not None or gap < LEAST_SAME:
            return inside
    if left is None or right is None:
        return _between(left or top, right or top)
    return _at_vertex(left, top, right)


def _in_hump(ordered: Sequence[Reading], one: Reading, other: Reading) -> int | None:
    """Between two equal batches: worth a try when tokens/s falls on both sides of them, for then a peak is inside.

    Where nothing larger was timed, a rise that ended all at once is a sign of it too.
    """
    below = ordered[ordered.index(one) - 1] if ordered[0] is not one else None
    above = ordered[ordered.index(other) + 1] if ordered[-1] is not other else None
    both = min(one.tokens_per_s, other.tokens_per_s)
    rises = below is not None and below.tokens_per_s < both * (1 - (_FALL if above is not None else _STEEP))
    falls = above is None or above.tokens_per_s < both * (1 - _FALL)
    middle = round(math.sqrt(one.batch * other.batch))
    return middle if rises and falls and one.batch < middle < other.batch else None


def _between(one: Reading, other: Reading) -> int | None:
    """Halfway, where the best is the first or the last that was timed: worth it when the two differ."""
    middle = round(math.sqrt(one.batch * other.batch))
    is_new = one.batch < middle < other.batch
    is_same = abs(one.tokens_per_s / other.tokens_per_s - 1) < _NO_GAIN
    return middle if is_new and not is_same else None


def _below_failure(left: Reading | None, top: Reading, right: Reading, limit_bytes: int | None) -> int | None:
    """Between the best and the batch that did not run: as full as memory allows, as long as more still pays."""
    if right.batch - top.batch < 2:
        return None
    if left is not None:
        slope = math.log(top.tokens_per_s / left.tokens_per_s) / math.log(top.batch / left.batch)
        if slope * math.log(right.batch / top.batch) < _GAIN:
            return None
    middle = (top.batch + right.batch) // 2
    if left is None or limit_bytes is None or top.peak_bytes is None or left.peak_bytes is None:
        return middle
    growth = (top.peak_bytes - left.peak_bytes) / (top.batch - left.batch)
    if growth <= 0:
        return middle
    fits = top.batch + int((limit_bytes * _FILL - top.peak_bytes) / growth)
    if fits >= right.batch:  # which did not run: the limit is not what ended it
        return middle
    return fits if fits > top.batch else None


def _at_vertex(left: Reading, top: Reading, right: Reading) -> int | None:
    """Where a parabola over the logarithm has its vertex, or into the wider side when that is where the best is."""
    if right.batch - left.batch <= 2:
        return None
    x0, x1, x2 = (math.log(reading.batch) for reading in (left, top, right))
    fall_left = (top.tokens_per_s - left.tokens_per_s) / (x1 - x0)
    fall_right = (top.tokens_per_s - right.tokens_per_s) / (x2 - x1)
    bend = fall_left + fall_right
    vertex = (x0 + x1) / 2 + (x2 - x0) / 2 * fall_left / bend if bend > 0 else x1
    if abs(vertex - x1) < _NEAR * (x2 - x0):
        wider_right = x2 - x1 >= x1 - x0
        vertex = x1 + _GOLDEN * (x2 - x1) if wider_right else x1 - _GOLDEN * (x1 - x0)
    batch = min(max(round(math.exp(vertex)), left.batch + 1), right.batch - 1)
    if batch == top.batch:
        batch += 1 if right.batch - batch > 1 else -1
    nearest = min((left, top, right), key=lambda reading: abs(reading.batch - batch)).batch
    apart = min(max(2 * noise_of(top), _LEAST_APART), _MOST_APART)
    return batch if abs(batch - nearest) >= apart * nearest else None
