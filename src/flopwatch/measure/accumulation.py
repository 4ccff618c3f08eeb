"""The plan for a global batch: micro-batches that fit, and the steps of accumulation that keep the batch exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from flopwatch.errors import InputError
from flopwatch.measure.batch_search import Predict
from flopwatch.measure.fit import FitRequest, predicted_peak
from flopwatch.measure.series import ProbeSeries
from flopwatch.record import FitResult
from flopwatch.workload import Workload

_SHOWN: Final = 2  # micro-batches that show the peak of any number: from the second on the gradients are there


def check_global_batch(global_batch: int, workload: Workload) -> None:
    """Raises InputError for a batch of nothing, for work without gradients, and where the steps are said already."""
    if global_batch < 1:
        raise InputError(f"a global batch of {global_batch} is no batch", hint="it counts from 1")
    if not workload.is_train:
        raise InputError(f"--global-batch has no meaning in phase {workload.phase}", hint="use --phase train")
    if workload.n_accumulate != 1:
        raise InputError("--global-batch and --accumulate exclude each other", hint="the plan says how many")


def with_plan(
    result: FitResult,
    request: FitRequest,
    global_batch: int,
    series: ProbeSeries | None,
    *,
    predict_of: Callable[[FitRequest], Predict] = predicted_peak,
) -> FitResult:
    """The result with `plan` in its details: the largest micro-batch that divides `global_batch` and fits.

    Accumulation keeps the gradients alive during the next forward, so a batch that ran alone is run once more with two
    micro-batches before it is planned with (`verified`); without a series it is predicted (by `predict_of`).
    `micro_batch` is None where not even the smallest divisor fits that way.
    """
    check_global_batch(global_batch, request.workload)
    plan: dict[str, Any] = {"global_batch": global_batch, "micro_batch": None, "n_accumulate": None, "verified": False}
    for micro in _divisors(global_batch, result.batch or 0):
        n_accumulate = global_batch // micro
        if _fits(micro, n_accumulate, request, series, predict_of):
            is_run = series is not None
            plan = {**plan, "micro_batch": micro, "n_accumulate": n_accumulate, "verified": is_run}
            break
    return msgspec.structs.replace(result, details={**result.details, "plan": plan})


def _fits(
    micro: int,
    n_accumulate: int,
    request: FitRequest,
    series: ProbeSeries | None,
    predict_of: Callable[[FitRequest], Predict],
) -> bool:
    workload = msgspec.structs.replace(request.workload, n_accumulate=min(n_accumulate, _SHOWN))
    accumulated = msgspec.structs.replace(request, workload=workload)
    if series is not None:
        return series.ask(accumulated.probe(micro)).is_ok
    peak_bytes = predict_of(accumulated)(micro)
    return peak_bytes is not None and peak_bytes <= request.limit.limit_bytes


def _divisors(n: int, most: int) -> Iterator[int]:
    """The divisors of n up to `most`, the largest first, looked for one by one: n may be any number."""
    return (d for d in range(min(n, most), 0, -1) if n % d == 0)
