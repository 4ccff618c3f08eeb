"""The batch with the most tokens a second: timed one after another, with the curve and the plan for a global batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from flopwatch.api.bench_series import BenchSeries
from flopwatch.api.own import own_memory
from flopwatch.compare.runs import RUN_TO_RUN_FRACTION
from flopwatch.errors import DoesNotFitError, FlopwatchError, InputError, ProbeError
from flopwatch.measure.batch_curve import Reading, micro_batch_of, tokens_per_s_at
from flopwatch.measure.batch_search import MOST, Predict, predicted_place
from flopwatch.measure.bench import StepMeasurement, with_timing
from flopwatch.measure.best_batch import BestBatch, Try, search_best_batch
from flopwatch.measure.fit import FitRequest, predicted_peak
from flopwatch.measure.turns import time_in_turn
from flopwatch.model.own import Model, OwnModel
from flopwatch.record import AccumulationPlan, BatchPoint, BatchSearch, BenchResult
from flopwatch.workload import Workload


def best_batch(
    spec: Model,
    workload: Workload,
    benches: BenchSeries,
    *,
    compiled: bool = False,
    global_batch: int | None = None,
    max_batch: int | None = None,
) -> BenchResult:
    """The benchmark of the best batch, with the curve of those that were timed in `batch_search`.

    No batch is tried that is predicted not to fit. `global_batch` asks for the micro-batches and steps that keep so
    many sequences a step. Raises what the smallest batch raises when not even that runs.
    """
    if global_batch is not None and global_batch < 1:
        raise InputError(f"a global batch of {global_batch} is no batch", hint="it counts from 1")
    largest = _largest_predicted(spec, workload, benches)
    most = min(n for n in (largest, max_batch, global_batch, MOST) if n is not None)
    run = _Run(spec, workload, benches, compiled=compiled)
    limit_bytes = benches.limit.limit_bytes
    search = search_best_batch(max_batch=most, limit_bytes=limit_bytes, takes_turns=benches.takes_turns)
    try:
        wanted = next(search)
        while True:
            in_turn = len(wanted.batches) > 1
            wanted = search.send(run.read_in_turn(wanted.batches) if in_turn else [run.read(wanted)])
    except StopIteration as end:
        found: BestBatch = end.value
    if found.best is None:
        raise run.errors[1]
    result = run.results[found.best.batch]
    how = BatchSearch(
        curve=[run.point(reading) for reading in found.readings],
        n_runs=found.n_runs,
        largest_predicted=largest,
        end=found.end,
        plan=None if global_batch is None else _plan(found, global_batch),
    )
    details = {**result.details, "notes": [*result.details["notes"], *run.notes]}
    return msgspec.structs.replace(result, batch_search=how, details=details)


class _Run:
    """The batches that were timed: their benchmarks, or the errors that they ended in."""

    def __init__(self, spec: Model, workload: Workload, benches: BenchSeries, *, compiled: bool) -> None:
        self._spec, self._workload, self._benches, self._compiled = spec, workload, benches, compiled
        self.results: dict[int, BenchResult] = {}
        self.errors: dict[int, FlopwatchError] = {}
        self.notes: list[str] = []
        self._readings: dict[int, Reading] = {}
        self._measured: dict[int, StepMeasurement] = {}
        self._n_timed: Counter[int] = Counter()

    def read(self, wanted: Try) -> Reading:
        """Time one batch, another time when it was timed before."""
        (batch,) = wanted.batches
        repeat = self._n_timed[batch]
        work = msgspec.structs.replace(self._workload, batch=batch)
        try:
            measured, result = self._benches.measure(
                self._spec,
                work,
                compiled=self._compiled,
                repeat=repeat,
                besides=self._measured[batch] if wanted.is_more else None,
            )
        except (DoesNotFitError, ProbeError) as error:
            self.errors[batch] = error
            return Reading(batch=batch, outcome="oom" if isinstance(error, DoesNotFitError) else "failed")
        if repeat and not wanted.is_more:
            self._compare(result, self.results[batch])
        self._n_timed[batch] += 1
        return self._keep(batch, measured, result)

    def read_in_turn(self, batches: Sequence[int]) -> list[Reading]:
        """Time batches that ran before in turn: readings that compare as they did round by round.

        Where one of them fails beside the others, the readings that there are.
        """
        works = [msgspec.structs.replace(self._workload, batch=batch) for batch in batches]
        requests = [self._benches.request(self._spec, work, compiled=self._compiled) for work in works]
        try:
            found = time_in_turn(requests, self._benches.series)
        except ProbeError as error:
            listed = ", ".join(str(batch) for batch in batches)
            self.notes.append(f"batches {listed} could not be timed in turn: {error}")
            return [self._readings[batch] for batch in batches]
        if found.disturbed:
            self.notes.append(found.disturbed)
        readings = []
        for place, (batch, work) in enumerate(zip(batches, works, strict=True)):
            measured = with_timing(self._measured[batch], found.timings[place], n_steps=found.n_steps[place])
            result = self._benches.result(self._spec, work, measured, compiled=self._compiled)
            share, low, high = (speed * work.n_tokens / works[0].n_tokens for speed in found.speeds[place])
            if place == 0:
                self._compare(result, self.results[batch])
                first_per_s = result.tokens_per_s
            else:
                self.notes.append(
                    f"batch {batch} has {low:.1%} to {high:.1%} of the tokens/s of batch {batches[0]}: timed in turn,"
                    f" {found.n_rounds} rounds"
                )
            kept = self._keep(batch, measured, result)
            rates = {"tokens_per_s": first_per_s * share, "low": first_per_s * low, "high": first_per_s * high}
            readings.append(msgspec.structs.replace(kept, **rates))
        return readings

    def _keep(self, batch: int, measured: StepMeasurement, result: BenchResult) -> Reading:
        """Remember what was timed last of a batch, and give its Reading."""
        self._measured[batch], self.results[batch] = measured, result
        timing, n_tokens = measured.timing, msgspec.structs.replace(self._workload, batch=batch).n_tokens
        self._readings[batch] = Reading(
            batch=batch,
            tokens_per_s=result.tokens_per_s,
            low=n_tokens / timing.median_high_s,
            high=n_tokens / timing.median_low_s,
            peak_bytes=measured.allocated_peak_bytes,
        )
        return self._readings[batch]

    def _compare(self, now: BenchResult, before: BenchResult) -> None:
        change = now.tokens_per_s / before.tokens_per_s - 1
        if abs(change) > RUN_TO_RUN_FRACTION:
            self.notes.append(
                f"batch {now.batch} was timed twice, {100 * change:+.1f} % tokens/s the second time: the machine is not"
                " quiet, and points of the curve that were taken far apart cannot be compared"
            )

    def point(self, reading: Reading) -> BatchPoint:
        """The reading as it stands in the record."""
        if reading.outcome != "ok":
            return BatchPoint(batch=reading.batch, outcome=reading.outcome, detail=str(self.errors[reading.batch]))
        result, reading = self.results[reading.batch], self._readings[reading.batch]  # as it was timed
        known = [row for row in result.utilization if row.name == "mfu" and row.fraction is not None]
        return BatchPoint(
            batch=reading.batch,
            outcome="ok",
            tokens_per_s=reading.tokens_per_s,
            tokens_per_s_interval=[reading.low, reading.high],
            step_s=result.step_s.median,
            mfu=known[0].fraction if known else None,
            mfu_peak_kind=known[0].peak_kind if known else None,
            peak_memory_bytes=result.peak_memory_bytes,
        )


def _largest_predicted(spec: Model, workload: Workload, benches: BenchSeries) -> int | None:
    """The largest batch that is predicted to fit, at least 1; None where memory cannot be predicted."""
    request = FitRequest(spec=spec, workload=workload, limit=benches.limit, device=benches.machine.torch_device)
    predict: Predict
    if isinstance(spec, OwnModel):
        predict = own_memory(spec, workload, benches.series).peak_bytes
    else:
        predict = predicted_peak(request)
    place = predicted_place(predict, request.grid, request.limit.limit_bytes)
    return None if place is None else max(1, place)


def _plan(found: BestBatch, global_batch: int) -> AccumulationPlan:
    """The fastest way to `global_batch` by the curve; batch 1 was timed, so that there always is one."""
    micro = micro_batch_of(found.readings, global_batch)
    rate = None if micro is None else tokens_per_s_at(found.readings, micro)
    assert micro is not None
    assert rate is not None
    return AccumulationPlan(
        global_batch=global_batch,
        micro_batch=micro,
        n_accumulate=global_batch // micro,
        tokens_per_s=rate,
        is_between=micro not in {reading.batch for reading in found.readings},
    )
