"""The largest batch that fits: predicted, tried in fresh processes, and proved by its neighbour."""

from __future__ import annotations

import functools
from typing import Any, Final

import msgspec

from flopwatch.errors import DoesNotFitError, ProbeError, SpecError
from flopwatch.measure.batch_search import Found, Grid, Predict, Try, predicted_place, search_batch
from flopwatch.measure.limit import Limit
from flopwatch.measure.predicted import estimate_on, predicted_parts
from flopwatch.measure.series import ProbeSeries, Progress
from flopwatch.model.own import Model, OwnModel, import_from, imports, probe_arguments
from flopwatch.model.spec import ModelSpec
from flopwatch.probe.protocol import ProbeOutcome, ProbeRequest
from flopwatch.record import FitResult, NextBatch, ProbeRow
from flopwatch.trace.replay import predict_batch as replay_batch
from flopwatch.trace.replay import usage_at
from flopwatch.units import format_bytes, format_percent
from flopwatch.workload import Workload

_USUAL_TRIES: Final = 3
# What a limit counts and the prediction does not: libraries' buffers (5 MiB a thread of MKL), the heap, page rounding.
_UNPREDICTED_BYTES: Final = 16 << 20
# On a CPU that is all that the prediction was seen to miss. What takes less than a child's warm-up (25 MB) is measured
# in resident pages, which is less exact.
_PIN_BYTES: Final = 32 << 20
# What a failed allocation can look like besides "out of memory", once the same step has run at a smaller batch.
_UNCLEAR: Final = ("crashed", "killed")
_MEMORY_SHARE: Final = 0.8  # a step that ran with less of the limit leaves one sequence more all the room it needs


class FitRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be found out: the largest batch of `workload` (its own batch is not used) on `device` in `limit`."""

    spec: Model
    workload: Workload
    limit: Limit
    device: str = "cpu"
    grid: Grid = Grid()
    timeout_s: float = 600.0
    n_threads: int | None = None

    def probe(self, batch: int) -> ProbeRequest:
        """The probe that runs the step at a batch."""
        workload = msgspec.structs.replace(self.workload, batch=batch)
        return ProbeRequest(
            job="fit_step",
            arguments={
                **probe_arguments(self.spec),
                "workload": workload.to_dict(),
                "device": self.device,
                "n_steps": n_steps(workload, self.device),
            },
            limit_bytes=self.limit.limit_bytes,
            device=self.device,
            timeout_s=self.timeout_s,
            n_threads=self.n_threads,
            tight_memory=True,
            import_from=import_from(self.spec),
            imports=imports(self.spec),
        )


def n_steps(workload: Workload, device: str = "cpu") -> int:
    """Steps that show the peak: optimizer state is made at the end of the first, so training needs a second.

    So does any phase on an accelerator: what the first leaves in the cache of the allocator may not fit the second.
    """
    return 2 if workload.is_train or device.split(":")[0] != "cpu" else 1


def fit_batch(request: FitRequest, series: ProbeSeries, *, predict: Predict | None = None) -> FitResult:
    """The largest batch that ran, what the prediction was, and what became of the batch after it.

    `batch` is None when not even the smallest allowed one runs for want of memory (`does_not_fit` makes the error of
    it). Raises ProbeError when the smallest fails for another reason: then nothing is known about memory.
    """
    request.spec.check_seq_len(request.workload.seq_len)
    predict = predict or predicted_peak(request)
    limit_bytes = request.limit.limit_bytes
    first_bytes = limit_bytes - min(max(limit_bytes // 100, _UNPREDICTED_BYTES), limit_bytes // 4)
    search = search_batch(
        limit_bytes=limit_bytes,
        first_bytes=first_bytes,
        grid=request.grid,
        predict=predict,
        pin_bytes=_PIN_BYTES if request.device == "cpu" else None,
    )
    outcomes: dict[int, ProbeOutcome] = {}
    try:
        batch = next(search)
        while True:
            series.watch(_progress(request, batch, outcomes))
            outcomes[batch] = series.ask(request.probe(batch))
            batch = search.send(_try(batch, outcomes[batch]))
    except StopIteration as end:
        found: Found = end.value
    _check_failure(request, found, outcomes)
    return _result(request, found, outcomes, predict)


def predict_batch(request: FitRequest, *, predict: Predict | None = None) -> FitResult:
    """The largest batch that the prediction allows; nothing is run, and `verified` says so.

    Raises SpecError for a network whose memory cannot be predicted.
    """
    request.spec.check_seq_len(request.workload.seq_len)
    predict = predict or predicted_peak(request)
    place = predicted_place(predict, request.grid, request.limit.limit_bytes)
    if place is None:
        raise SpecError(f"the memory of {request.spec.name} cannot be predicted", hint="run it without --predict-only")
    batch = request.grid.at(place) if place else None
    peak_bytes = predict(batch or request.grid.at(1))
    details: dict[str, Any] = {"device": request.device, **_optimizer(request.workload)}
    if place == request.grid.size:
        details["capped"] = True
    repeated = _repeated_batch(request) if batch else None
    if repeated is not None and batch is not None and repeated < batch:
        details["repeated_batch"] = repeated
    return FitResult(
        model=request.spec.name,
        phase=request.workload.phase,
        seq_len=request.workload.seq_len,
        dtype=request.workload.dtype,
        batch=batch,
        verified=False,
        predicted_batch=batch or 0,
        predicted_peak_bytes=peak_bytes,
        measured_peak_bytes=None,
        limit_bytes=request.limit.limit_bytes,
        limit_source=request.limit.source,
        next=NextBatch(batch=request.grid.after(batch or 0), outcome="not tested", how="not tested"),
        probes=[],
        details=details,
        predicted_parts=_parts(request, batch or request.grid.at(1), peak_bytes),
    )


def _repeated_batch(request: FitRequest) -> int | None:
    """The largest batch whose step also fits a second time in one process of a caching allocator; None elsewhere."""
    spec = request.spec
    if request.device.split(":")[0] != "cuda" or request.grid != Grid() or isinstance(spec, OwnModel):
        return None
    return replay_batch(spec, request.workload, request.limit.limit_bytes).repeated_batch


def predicted_peak(request: FitRequest) -> Predict:
    """The closed form's peak for a batch; None for what it cannot estimate, code of the user's for one.

    On a CUDA device it is what torch's allocator reserves, by a replay of the written-out step within the limit.
    """
    spec = request.spec
    if isinstance(spec, OwnModel):
        return lambda _: None
    if request.device.split(":")[0] == "cuda":
        return _predicted_reserve(request, spec)

    @functools.cache
    def predict(batch: int) -> int | None:
        workload = msgspec.structs.replace(request.workload, batch=batch)
        estimate = estimate_on(spec, workload, request.device)
        return None if estimate is None else estimate.peak_bytes

    return predict


def _predicted_reserve(request: FitRequest, spec: ModelSpec) -> Predict:
    """Bytes that the allocator reserves at a batch: beyond the limit where the step fails within it."""
    limit_bytes = request.limit.limit_bytes
    try:
        usage = usage_at(spec, request.workload)
    except SpecError:
        return lambda _: None

    @functools.cache
    def predict(batch: int) -> int | None:
        within = usage(batch, limit_bytes)
        return within.reserved_bytes if within.fits else max(limit_bytes + 1, usage(batch, None).reserved_bytes)

    return predict


def does_not_fit(result: FitResult) -> DoesNotFitError:
    """The error for a fit without a batch: what the smallest batch needs, and what is allowed."""
    smallest = result.next.batch if result.next is not None else 1
    what = f"batch {smallest} of {result.model} ({result.phase}, {result.seq_len} tokens, {result.dtype})"
    allowed = f"{format_bytes(result.limit_bytes)} are allowed ({result.limit_source})"
    if result.predicted_peak_bytes is None:
        return DoesNotFitError(f"{what} ran out of memory; {allowed}", hint="raise --limit or shorten --seq")
    needs = f"needs about {format_bytes(result.predicted_peak_bytes)} (predicted)"
    return DoesNotFitError(f"{what} {needs}; {allowed}", hint="raise --limit or shorten --seq")


def _try(batch: int, outcome: ProbeOutcome) -> Try:
    return Try(batch=batch, outcome=outcome.outcome, peak_bytes=outcome.peak_bytes if outcome.is_ok else None)


def _progress(request: FitRequest, batch: int, outcomes: dict[int, ProbeOutcome]) -> Progress:
    """Where the search stands. A try takes as long as the last one, in proportion to its batch."""
    label = f"{request.spec.name} {request.workload.phase}: does batch {batch} fit?"
    n_left = max(1, _USUAL_TRIES - len(outcomes))
    ran = [(b, outcome.wall_s) for b, outcome in outcomes.items() if outcome.is_ok]
    left_s = None if not ran else n_left * ran[-1][1] * max(1.0, batch / ran[-1][0])
    return Progress(label=label, done_fraction=len(outcomes) / (len(outcomes) + n_left), left_s=left_s)


def _check_failure(request: FitRequest, found: Found, outcomes: dict[int, ProbeOutcome]) -> None:
    """Not to run is only "does not fit" when memory is the reason."""
    if found.best is not None or found.worst is None:
        return
    outcome = outcomes[found.worst.batch]
    predicted = found.predicted_batch
    if outcome.outcome == "oom" or (outcome.outcome in _UNCLEAR and predicted == 0):
        return
    hint = "give it more time with --timeout" if outcome.outcome == "timeout" else "see whether `flopwatch bench` runs"
    raise ProbeError(
        f"batch {found.worst.batch} of {request.spec.name} did not run: {outcome.outcome} ({outcome.error})", hint=hint
    )


def _result(request: FitRequest, found: Found, outcomes: dict[int, ProbeOutcome], predict: Predict) -> FitResult:
    best, worst = found.best, found.worst
    measured = None if best is None else best.peak_bytes
    predicted = predict(request.grid.at(1) if best is None else best.batch)
    details: dict[str, Any] = {"n_steps": n_steps(request.workload, request.device), "device": request.device}
    details |= _optimizer(request.workload)
    details |= _doubts(found, request.limit.limit_bytes)
    if best is not None:
        details["n_threads"] = outcomes[best.batch].n_threads
        if measured and predicted is not None:
            details["prediction_error_fraction"] = predicted / measured - 1
    if worst is None:
        details["capped"] = True
    return FitResult(
        model=request.spec.name,
        phase=request.workload.phase,
        seq_len=request.workload.seq_len,
        dtype=request.workload.dtype,
        batch=None if best is None else best.batch,
        verified=best is not None,
        predicted_batch=found.predicted_batch,
        predicted_peak_bytes=predicted,
        measured_peak_bytes=measured,
        limit_bytes=request.limit.limit_bytes,
        limit_source=request.limit.source,
        next=_next(request.grid, found),
        probes=[_row(batch, outcome) for batch, outcome in outcomes.items()],
        details=details,
        predicted_parts=_parts(request, request.grid.at(1) if best is None else best.batch, predicted),
    )


def _doubts(found: Found, limit_bytes: int) -> dict[str, list[str]]:
    """That the batch after the best one failed for another reason than memory, where there was plenty of it."""
    best, worst = found.best, found.worst
    if best is None or worst is None or not best.peak_bytes or worst.outcome not in {*_UNCLEAR, "timeout"}:
        return {}
    share = best.peak_bytes / limit_bytes
    if share > _MEMORY_SHARE:
        return {}
    note = (
        f"batch {worst.batch} ended as {worst.outcome} where batch {best.batch} took {format_percent(share)} of the"
        " limit: it is not memory that stops it"
    )
    return {"notes": [note]}


def _parts(request: FitRequest, batch: int, peak_bytes: int | None) -> dict[str, int] | None:
    """The predicted peak of a batch by part, what the allocator takes on top among them; None where that is no sum.

    A prediction of somebody's own (`predict`) has no parts.
    """
    if isinstance(request.spec, OwnModel):
        return None
    workload = msgspec.structs.replace(request.workload, batch=batch)
    parts = predicted_parts(request.spec, workload, device=request.device, total_bytes=peak_bytes)
    return parts if parts is not None and sum(parts.values()) == peak_bytes else None


def _optimizer(workload: Workload) -> dict[str, Any]:
    """How the weights are updated, where they are."""
    return {"optimizer": workload.optimizer_name} if workload.is_train else {}


def _next(grid: Grid, found: Found) -> NextBatch:
    """What became of the batch after the best one, in the words of the record."""
    if found.worst is not None:
        return NextBatch(batch=found.worst.batch, outcome=found.worst.outcome, how="ran")
    return NextBatch(batch=grid.after(found.best.batch if found.best else 0), outcome="not tested", how="not tested")


def _row(batch: int, outcome: ProbeOutcome) -> ProbeRow:
    detail = None if outcome.is_ok else outcome.failure
    if outcome.outcome in _UNCLEAR:
        detail = f"{outcome.failure}: {outcome.error}"
    return ProbeRow(
        batch=batch,
        outcome=outcome.outcome,
        peak_bytes=outcome.peak_bytes if outcome.is_ok else None,
        wall_s=outcome.wall_s,
        detail=detail,
    )
