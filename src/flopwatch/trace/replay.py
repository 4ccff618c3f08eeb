"""A step's allocations for any batch, from two runs of it: each allocation is a + b * batch. Loads no torch.

The peak of a checkpointed step is the highest of several lines in the batch, so that no line through two peaks finds
it; the allocations themselves are lines, and replaying them gives the peak of any batch exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from flopwatch.cost.eager.tape import Tape
from flopwatch.cost.eager.tuning import Tuning, tuning_of
from flopwatch.cost.memory import step_tape
from flopwatch.device.allocator import MIB, Usage, replay
from flopwatch.errors import DoesNotFitError, FlopwatchError
from flopwatch.model.spec import ModelSpec
from flopwatch.workload import Workload

_RUNS: Final = (2, 3)  # not 1: at batch 1 some copies are views
_MOST_BATCH: Final = 1 << 24

UsageAt = Callable[[int, int | None], Usage]
"""Batch and limit (None: none) -> what the allocator reserves, and whether it fits."""


class BatchDependentError(FlopwatchError):
    """The allocations of a step are not lines in the batch: their number, order or sizes change in another way."""


class AnyBatch:
    """The allocations of one step at any batch; `make(batch)` runs the step, at the batches `runs` (and 1, if asked).

    Raises BatchDependentError where the two runs differ in more than sizes.
    """

    def __init__(self, make: Callable[[int], Tape], *, runs: tuple[int, int] = _RUNS) -> None:
        self._make = make
        low, high = runs
        first, second = make(low), make(high)
        if first.events != second.events:
            at = _first_difference(first.events, second.events)
            raise BatchDependentError(
                f"the step allocates differently at batches {low} and {high} (from event {at} on)",
                hint="what it does depends on the batch: predict each batch on its own, or measure",
            )
        self.events = first.events
        pairs = zip(first.blocks, second.blocks, strict=True)
        self._steps = [-((a.n_bytes - b.n_bytes) // (high - low)) for a, b in pairs]  # rounded up where it is no line
        self._starts = [a.n_bytes - low * b for a, b in zip(first.blocks, self._steps, strict=True)]
        self._first_batch: Tape | None = None

    def events_at(self, batch: int) -> tuple[list[int], list[int]]:
        """Events and block sizes at `batch`; batch 1 is run, because some copies are views there."""
        if batch == 1:
            if self._first_batch is None:
                self._first_batch = self._make(1)
            return self._first_batch.events, [block.n_bytes for block in self._first_batch.blocks]
        return self.events, [a + b * batch for a, b in zip(self._starts, self._steps, strict=True)]

    def peak_bytes(self, batch: int) -> int:
        """The highest sum of live blocks at `batch`."""
        events, sizes = self.events_at(batch)
        alive = peak = 0
        for event in events:
            if event >= 0:
                alive += sizes[event]
                peak = max(peak, alive)
            else:
                alive -= sizes[~event]
        return peak

    def usage(self, batch: int, limit_bytes: int | None) -> Usage:
        """What a CUDA caching allocator reserves at `batch`, within a limit."""
        events, sizes = self.events_at(batch)
        return replay(events, sizes, limit_bytes=limit_bytes)

    def check(self, batch: int, *, share: float = 0.0) -> None:
        """Run the step at `batch` too; raises BatchDependentError where the replay says something else.

        With `share` the sizes need not be lines; the peak must be right to that share of it.
        """
        tape = self._make(batch)
        events, sizes = self.events_at(batch)
        is_right = [block.n_bytes for block in tape.blocks] == sizes
        if share:
            peak_bytes = tape.peak().n_bytes
            is_right = abs(self.peak_bytes(batch) - peak_bytes) <= share * peak_bytes
        if tape.events != events or not is_right:
            raise BatchDependentError(
                f"the step at batch {batch} allocates something else than lines through two other batches say",
                hint="what it does depends on the batch: predict each batch on its own, or measure",
            )


class BatchPrediction(msgspec.Struct, frozen=True, kw_only=True):
    """The largest batch that a replay finds room for (0: none), what it needs, and what one more would.

    `reserved_bytes` is what the allocator takes from the device; `repeated_batch` is the largest batch whose step can
    also be repeated in the same process, which fragmentation may make smaller.
    """

    batch: int
    limit_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    repeated_batch: int | None = None


def predict_batch(
    spec: ModelSpec,
    workload: Workload,
    limit_bytes: int,
    *,
    tuning: Tuning | None = None,
) -> BatchPrediction:
    """The largest batch of `workload` that fits a CUDA device whose allocator may reserve `limit_bytes`.

    Replays the written-out step through the model of torch's allocator: a forward once, training for two steps.
    AdamW is torch's default on CUDA (foreach) unless `tuning` or the workload says else.
    """
    n_steps = n_steps_of(workload)
    batch, usage = _largest(usage_at(spec, workload, tuning=tuning), limit_bytes)
    again = usage_at(spec, workload, tuning=tuning, n_steps=n_steps + 1)
    return BatchPrediction(
        batch=batch,
        limit_bytes=limit_bytes,
        allocated_bytes=usage.allocated_bytes,
        reserved_bytes=usage.reserved_bytes,
        repeated_batch=_largest(again, limit_bytes)[0],
    )


def usage_at(
    spec: ModelSpec,
    workload: Workload,
    *,
    tuning: Tuning | None = None,
    n_steps: int | None = None,
) -> UsageAt:
    """A function of batch and limit: what torch's allocator reserves on a CUDA device for steps of `workload`."""
    steps = n_steps or n_steps_of(workload)
    tuning = tuning or tuning_of(workload, default="foreach")

    def make(batch: int) -> Tape:
        work = msgspec.structs.replace(workload, batch=batch)
        return step_tape(spec, work, tuning=tuning, device_type="cuda", n_steps=steps)

    return _any_batch(make)


def n_steps_of(workload: Workload) -> int:
    """Steps that show what a step needs: two where the first makes optimizer state, else one."""
    return 2 if workload.is_train and workload.optimizer != "none" else 1


def _any_batch(make: Callable[[int], Tape]) -> UsageAt:
    """How to get the usage at a batch: by replay where allocations are lines, else by writing each step out."""
    try:
        lines = AnyBatch(make)
        lines.check(7)
    except BatchDependentError:
        return lambda batch, limit: _usage_of(make(batch), limit)
    return lines.usage


def _usage_of(tape: Tape, limit_bytes: int | None) -> Usage:
    return replay(tape.events, [block.n_bytes for block in tape.blocks], limit_bytes=limit_bytes)


def _largest(usage: UsageAt, limit_bytes: int) -> tuple[int, Usage]:
    """The largest batch that fits and its usage; batch 0 with the usage of 1 where not even that fits."""
    fits, too_many = 0, 1
    best = usage(1, None)
    while too_many <= _MOST_BATCH and (tried := usage(too_many, limit_bytes)).fits:
        fits, best, too_many = too_many, tried, too_many * 2
    if too_many > _MOST_BATCH:
        raise DoesNotFitError(
            f"a batch of {_MOST_BATCH} still fits {limit_bytes // MIB} MiB", hint="is this the model that you mean?"
        )
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        tried = usage(middle, limit_bytes)
        if tried.fits:
            fits, best = middle, tried
        else:
            too_many = middle
    return fits, best


def _first_difference(first: list[int], second: list[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
