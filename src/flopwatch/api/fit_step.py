"""fw.fit(step=...): the largest batch that a step of the user's own runs with, found in this very process."""

from __future__ import annotations

import contextlib
import gc
import time
import traceback
import warnings
from collections.abc import Callable, Iterator

import msgspec

from flopwatch.api.step_memory import CpuStepMemory, StepMemory, step_memory
from flopwatch.errors import InputError
from flopwatch.fields import is_whole
from flopwatch.measure.batch_search import Found, Grid, Try, search_batch
from flopwatch.measure.limit import Limit
from flopwatch.probe.failures import classify_error
from flopwatch.record import NextBatch, ProbeRow
from flopwatch.trace.hidden import hidden_ops
from flopwatch.units import format_bytes

Step = Callable[[int], object]


class FitWarning(UserWarning):
    """The batch that was found may not be what a clean run would give; the text says why."""


class StepFit(msgspec.Struct, frozen=True, kw_only=True):
    """The largest batch that a step ran with; `batch` is None when not even the smallest did.

    `held_bytes` is what is alive after the search and was not before: gradients and optimizer state that the first
    steps made, or what the step keeps elsewhere. `leaked_bytes` is what every call leaves behind on top (None with one
    call a try): with a leak nothing is `verified`, for the later a try, the less memory it had.
    """

    batch: int | None
    verified: bool
    peak_bytes: int | None
    limit_bytes: int
    limit_source: str
    next: NextBatch
    probes: list[ProbeRow]
    n_steps: int
    capped: bool
    held_bytes: int
    leaked_bytes: int | None


class _Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a try ended: the row of the record, and by how much memory grew from the end of one call to the next."""

    row: ProbeRow
    growth_bytes: int | None


def fit_step(
    step: Step,
    *,
    limit_bytes: int | None = None,
    device: str | StepMemory = "auto",
    grid: Grid | None = None,
    n_steps: int = 2,
) -> StepFit:
    """The largest batch with which `step(batch)` runs `n_steps` times in a row, within a limit, in this process.

    The step really runs: a training step changes its weights. What it returns is dropped. On a CPU the limit counts
    the tensors that it makes, on an accelerator all that the allocator reserves. An error that is not about memory
    ends the search as it is. Whatever ends it, no tensor of a failed try stays alive.
    """
    if not is_whole(n_steps, least=1):
        raise InputError(f"n_steps={n_steps!r} runs nothing", hint="2 show the peak of training")
    grid = grid or Grid()
    memory, limit = step_memory(device, limit_bytes)
    ended: dict[int, _Ended] = {}
    _clean(memory)
    with memory.limited(limit.limit_bytes), _only_new_garbage():
        before_bytes = memory.allocated_bytes
        search = search_batch(limit_bytes=limit.limit_bytes, grid=grid)
        try:
            batch = next(search)
            while True:
                ended[batch] = _attempt(step, batch, n_steps, memory)
                row = ended[batch].row
                batch = search.send(Try(batch=batch, outcome=row.outcome, peak_bytes=row.peak_bytes))
        except StopIteration as end:
            found: Found = end.value
        held_bytes = memory.allocated_bytes - before_bytes
    result = _result(found, ended, grid, limit, n_steps=n_steps, held_bytes=held_bytes)
    if result.leaked_bytes:
        warnings.warn(
            f"every call of the step leaves {format_bytes(result.leaked_bytes)} behind: batch {result.batch} is what"
            " ran beside that; look for a list that keeps losses or outputs",
            FitWarning,
            stacklevel=2,
        )
    hidden = hidden_ops(memory.ops) if isinstance(memory, CpuStepMemory) else []
    if hidden:
        warnings.warn(
            f"the limit counts tensors, and not what kernels allocate inside, as these do: {', '.join(hidden)};"
            " `flopwatch fit package.module:factory` counts all of it",
            FitWarning,
            stacklevel=2,
        )
    return result


def _attempt(step: Step, batch: int, n_steps: int, memory: StepMemory) -> _Ended:
    """Run the step and clean up. The clean-up stands outside of `except`, where no error owns the tensors any more."""
    memory.reset_peak()
    began_s = time.perf_counter()
    after_bytes: list[int] = []
    failure: str | None = None
    try:
        for _ in range(n_steps):
            step(batch)
            gc.collect()
            after_bytes.append(memory.allocated_bytes)
    except KeyboardInterrupt as error:
        _let_go(error)  # an interactive interpreter keeps the last error, and with it the frames of the step
        raise
    except Exception as error:
        outcome, failure = classify_error(type(error).__name__, str(error))
        if outcome != "oom":
            raise
        _let_go(error)  # the step may have put the error where it stays
    finally:
        wall_s = time.perf_counter() - began_s
        peak_bytes = memory.peak_bytes
        _clean(memory)
    row = ProbeRow(
        batch=batch,
        outcome="ok" if failure is None else "oom",
        peak_bytes=peak_bytes if failure is None else None,
        wall_s=wall_s,
        detail=failure,
    )
    growth = None
    if failure is None and n_steps > 1:
        growth = (after_bytes[-1] - after_bytes[0]) // (n_steps - 1)
    return _Ended(row=row, growth_bytes=growth)


def _let_go(error: BaseException) -> None:
    """Empty the frames that the error and those before it came through: they have ended and are never looked at."""
    seen: set[int] = set()
    next_error: BaseException | None = error
    while next_error is not None and id(next_error) not in seen:
        seen.add(id(next_error))
        traceback.clear_frames(next_error.__traceback__)
        next_error = next_error.__cause__ or next_error.__context__


@contextlib.contextmanager
def _only_new_garbage() -> Iterator[None]:
    """Inside, the collector leaves out what was there before, which takes it most of its time (0.2 s after torch)."""
    if gc.get_freeze_count():  # somebody else's: to unfreeze them all would undo it
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _clean(memory: StepMemory) -> None:
    """First the cycles, then the cache: the other way round the cache is full again."""
    gc.collect()
    memory.empty_cache()


def _result(
    found: Found, ended: dict[int, _Ended], grid: Grid, limit: Limit, *, n_steps: int, held_bytes: int
) -> StepFit:
    growths = [one.growth_bytes for one in ended.values() if one.growth_bytes is not None]
    leaked_bytes = max(0, min(growths)) if growths else None
    best, worst = found.best, found.worst
    if worst is not None:
        after = NextBatch(batch=worst.batch, outcome=worst.outcome, how="ran")
    else:
        after = NextBatch(batch=grid.after(best.batch if best else 0), outcome="not tested", how="not tested")
    return StepFit(
        batch=None if best is None else best.batch,
        verified=best is not None and not leaked_bytes,
        peak_bytes=None if best is None else best.peak_bytes,
        limit_bytes=limit.limit_bytes,
        limit_source=limit.source,
        next=after,
        probes=[one.row for one in ended.values()],
        n_steps=n_steps,
        capped=worst is None,
        held_bytes=held_bytes,
        leaked_bytes=leaked_bytes,
    )
