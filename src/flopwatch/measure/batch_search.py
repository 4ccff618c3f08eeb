"""The search for the largest batch that fits: pure, it only says which batch to try next and learns what came of it.

Predict, try, pin the prediction to what was measured, try again, and show that the neighbour does not fit. With a
prediction within a percent that is two or three tries. Where the prediction is off the search falls back to a line
through measurements, to doubling, and in the end to bisection, so that it always ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from typing import Final, Literal

from flopwatch.errors import InputError
from flopwatch.probe.protocol import Outcome

Predict = Callable[[int], int | None]
"""Batch -> peak bytes, never falling with the batch; or None for every batch where nothing is known."""

MOST: Final = 1 << 16
"""Where a search without `max_batch` ends, should memory never grow."""

_FIRST_FRACTION: Final = 0.995
_RETREATS: Final = (0.95, 0.8, 0.5)  # after one, two, more failures in a row: how far up the open span to try next
_NEAR_FRACTION: Final = 0.05  # a prediction this near is off by a constant, not by a factor
_MOST_GROWTH: Final = 4  # how far past what has run a line through measurements is trusted
_PIN_SHARE, _LEAST_PIN = 8, 2  # of the predicted batch; not 1, where some copies are views


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Try:
    """What came of one batch; `peak_bytes` only of one that ran."""

    batch: int
    outcome: Outcome
    peak_bytes: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The end of a search: the largest batch that ran, and the smallest that did not.

    `best` is None when not even the smallest allowed batch ran; `worst` is None when the largest allowed one did.
    """

    best: Try | None
    worst: Try | None
    n_tries: int
    predicted_batch: int | None

    @property
    def is_proved(self) -> bool:
        """Whether the allowed batch after `best` was run and failed; a timeout is no proof that it cannot fit."""
        return self.best is not None and self.worst is not None and self.worst.outcome != "timeout"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """The batches that are allowed: all, multiples of a number, or powers of two; up to `max_batch`."""

    kind: Literal["all", "power-of-two"] = "all"
    multiple_of: int = 1
    max_batch: int = MOST

    def __post_init__(self) -> None:
        if self.multiple_of < 1 or self.max_batch < 1:
            raise InputError(f"a batch of {min(self.multiple_of, self.max_batch)} is no batch", hint="it counts from 1")
        if self.kind == "power-of-two" and self.multiple_of != 1:
            raise InputError("power-of-two batches and a multiple exclude each other", hint="give one of them")
        if self.size == 0:
            raise InputError(f"no multiple of {self.multiple_of} is at most {self.max_batch}", hint="raise the maximum")

    @property
    def size(self) -> int:
        """How many batches are allowed."""
        return self.max_batch.bit_length() if self.kind == "power-of-two" else self.max_batch // self.multiple_of

    def at(self, place: int) -> int:
        """The batch at a place; places count from 1."""
        return 1 << (place - 1) if self.kind == "power-of-two" else place * self.multiple_of

    def after(self, batch: int) -> int:
        """The batch that would come after an allowed one (0: the first), allowed or not."""
        return max(1, 2 * batch) if self.kind == "power-of-two" else batch + self.multiple_of


def predicted_place(model: Predict, grid: Grid, limit_bytes: int) -> int | None:
    """The place of the largest allowed batch that the model says fits (0: none); None when it says nothing."""
    if model(grid.at(1)) is None:
        return None

    def fits(place: int) -> bool:
        peak_bytes = model(grid.at(place))
        return peak_bytes is not None and peak_bytes <= limit_bytes

    low, high = 0, 1
    while high <= grid.size and fits(high):
        low, high = high, 2 * high
    high = min(high, grid.size + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def search_batch(
    *,
    limit_bytes: int,
    first_bytes: int | None = None,
    grid: Grid | None = None,
    predict: Predict | None = None,
    pin_bytes: int | None = None,
) -> Generator[int, Try, Found]:
    """Yields the batch to try, is sent what came of it, and returns the Found; tries no batch twice.

    `first_bytes` is what the first try is predicted to take. It is to run, so that there is a measurement to pin the
    prediction to: a little below the limit, by what the prediction is likely to leave out (0.5 % when left out).
    `pin_bytes` is for predictions that are right but for a constant: the first try then is an eighth of that batch,
    which shows the constant in an eighth of the time, or what is predicted to take so many bytes.
    """
    search = _Search(
        limit_bytes=limit_bytes,
        first_bytes=first_bytes if first_bytes is not None else int(limit_bytes * _FIRST_FRACTION),
        grid=grid or Grid(),
        predict=predict or (lambda _batch: None),
        pin_bytes=pin_bytes,
    )
    while (place := search.next_place()) is not None:
        search.learn(place, (yield search.grid.at(place)))
    return search.found()


@dataclasses.dataclass(kw_only=True)
class _Search:
    """What is known so far: everything up to place `low` ran, everything from `high` on did not or is not allowed."""

    limit_bytes: int
    first_bytes: int
    grid: Grid
    predict: Predict
    pin_bytes: int | None

    def __post_init__(self) -> None:
        self.low = 0
        self.high = self.grid.size + 1
        self.best: Try | None = None
        self.worst: Try | None = None
        self.measured: list[tuple[int, int]] = []  # (batch, peak bytes) of what ran, in rising order
        self.n_tries = 0
        self.n_failed_in_a_row = 0
        self.n_beyond_model = 0

    def next_place(self) -> int | None:
        """The place to try next; None when `low` and `high` have met."""
        if self.high - self.low <= 1:
            return None
        return min(max(self._wanted_place(), self.low + 1), self.high - 1)

    def learn(self, place: int, tried: Try) -> None:
        """Take in what came of a try: anything but `ok` means that this batch does not run."""
        self.n_tries += 1
        if tried.outcome == "ok":
            self.low, self.best = place, tried
            self.n_failed_in_a_row = 0
            if tried.peak_bytes is not None:
                self.measured.append((tried.batch, tried.peak_bytes))
        else:
            self.high, self.worst = place, tried
            self.n_failed_in_a_row += 1

    def found(self) -> Found:
        """What the search came to."""
        predicted = predicted_place(self.predict, self.grid, self.limit_bytes)
        return Found(
            best=self.best,
            worst=self.worst,
            n_tries=self.n_tries,
            predicted_batch=None if predicted is None else self.grid.at(predicted) if predicted else 0,
        )

    def _wanted_place(self) -> int:
        if self.n_tries == 0:
            return self._first_place()
        if self.n_failed_in_a_row:
            return self._retreat()
        wanted = predicted_place(self._pinned, self.grid, self.limit_bytes)
        if wanted is None:
            return self._without_model()
        if (
            wanted <= self.low
        ):  # the neighbour, as the proof; should it run, the next, then faster: the model is too high
            self.n_beyond_model += 1
            return self.low + (1 << max(0, self.n_beyond_model - 2))
        return wanted if wanted < self.high else self.low + max(1, int((self.high - self.low) * _RETREATS[1]))

    def _first_place(self) -> int:
        """Near the answer; or well below, where the predicted peak grows as it does there."""
        wanted = predicted_place(self.predict, self.grid, self.first_bytes) or 1
        pin_bytes = self.pin_bytes
        if pin_bytes is None or wanted == self.grid.size:
            return wanted
        place = max(_LEAST_PIN, -(-wanted // _PIN_SHARE))
        while place < wanted and (self._peak(place) < pin_bytes or self._growth(place) != self._growth(wanted)):
            place *= 2
        return min(place, wanted)

    def _growth(self, place: int) -> int:
        """Bytes that one batch more is predicted to take."""
        batch = self.grid.at(place)
        return (self.predict(batch + 1) or 0) - (self.predict(batch) or 0)

    def _peak(self, place: int) -> int:
        return self.predict(self.grid.at(place)) or 0

    def _retreat(self) -> int:
        """Between what ran and what failed: near the failure at first, then halving the span."""
        is_pinned_low = self.pin_bytes is not None and len(self.measured) == 1
        within_bytes = int(self.limit_bytes * _FIRST_FRACTION) if is_pinned_low else self.limit_bytes
        wanted = predicted_place(self._pinned, self.grid, within_bytes) if self.best is not None else None
        if wanted is not None and self.n_failed_in_a_row == 1 and self.low < wanted < self.high:
            return wanted
        fraction = _RETREATS[min(self.n_failed_in_a_row, len(_RETREATS)) - 1]
        return self.low + max(1, int((self.high - self.low) * fraction))

    def _without_model(self) -> int:
        """Doubling until something fails, then halving."""
        if self.worst is None:
            return max(1, 2 * self.low)
        return (self.low + self.high) // 2

    def _pinned(self, batch: int) -> int | None:
        """Peak bytes of a batch: the prediction moved to go through what was measured, or a line through it alone."""
        if not self.measured:
            return None
        last_batch, last_bytes = self.measured[-1]
        predicted, predicted_last = self.predict(batch), self.predict(last_batch)
        if predicted is not None and predicted_last is not None:
            return last_bytes + int((predicted - predicted_last) * self._scale(predicted_last))
        if len(self.measured) < 2:
            return None
        if batch > _MOST_GROWTH * last_batch:
            return self.limit_bytes + 1  # not trusted that far
        before_batch, before_bytes = self.measured[-2]
        slope = (last_bytes - before_bytes) / (last_batch - before_batch)
        return int(last_bytes + slope * (batch - last_batch))

    def _scale(self, predicted_last: int) -> float:
        """Measured growth over predicted growth: 1 as long as the prediction is near what was measured."""
        _, last_bytes = self.measured[-1]
        near_bytes = max(_NEAR_FRACTION * last_bytes, self.limit_bytes - self.first_bytes)
        if abs(last_bytes - predicted_last) <= near_bytes or predicted_last <= 0:
            return 1.0
        if len(self.measured) >= 2:
            before_batch, before_bytes = self.measured[-2]
            predicted_growth = predicted_last - (self.predict(before_batch) or 0)
            if predicted_growth > 0 and last_bytes > before_bytes:
                return (last_bytes - before_bytes) / predicted_growth
        return last_bytes / predicted_last
