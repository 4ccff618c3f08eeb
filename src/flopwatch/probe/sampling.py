"""Warm-up and samples of a repeated step: when it is steady, how many samples, how many steps in each. No torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from statistics import median, quantiles, stdev
from typing import Any, Final

from flopwatch.errors import ProbeError

N_STEPS_BEFORE: Final = 2
"""Steps that are run before warm-up is looked at: an optimizer makes its state in the first."""
_CLOCK_TICKS: Final = 200  # a sample this many ticks long is read to half a percent
_MOST_STEPS_A_SAMPLE: Final = 1 << 20
_MIDDLE_HALF: Final = 1.349  # range of the middle half of normal samples, in standard deviations
_MEDIAN_ERROR: Final = math.sqrt(math.pi / 2)  # standard error of the median over that of the mean, normal samples
_N_BLOCKS: Final = 5


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SamplePlan:
    """How a step is timed: warm-up until steady or capped, then samples until there are enough of them.

    Steady means that a step is no longer faster than the one before by more than `steady_fraction`: warm-up is over
    when it stops paying. There are at least `min_samples`, then more until `target_s` is spent and the median is known
    to `sure_fraction` (its standard error), or `most_s` is spent, or there are `max_samples`. Steps so slow that
    `most_s` holds few of them are sampled until there are `few_samples`, for `few_most_s` at most.
    """

    min_warmup: int = 2
    max_warmup: int = 12
    max_warmup_s: float = 10.0
    steady_fraction: float = 0.05
    min_samples: int = 5
    max_samples: int = 1000
    target_s: float = 4.0
    sure_fraction: float = 0.01
    most_s: float = 16.0
    few_samples: int = 10
    few_most_s: float = 40.0
    min_sample_s: float = 0.004


def sample_steps(
    step: Callable[[], None],
    plan: SamplePlan,
    *,
    clock: Callable[[], float],
    settle: Callable[[], None],
    n_done: int = 0,
    second_clock: Callable[[], float] | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows as they are measured: `{warmup_s}` a warm-up step, `{sample_s, n_steps}` a sample, and a last summary.

    `settle` returns when all work that was started is done; it is part of what is timed, because a step has ended
    only then. `n_done` steps have been run before. The summary has `samples_s` (seconds a step), `n_steps` (in each
    sample), `n_warmup`, `is_steady` and `clock_ratio`: what passed on the second clock over what passed on the first,
    while samples were taken; None without a second. Raises ProbeError for a clock that stands still.
    """
    warmup_s: list[float] = []
    for took_s in warm_up(step, plan, clock=clock, settle=settle, n_done=n_done):
        warmup_s.append(took_s)
        yield {"warmup_s": took_s, "n_steps": 1}
    n_steps = _steps_a_sample(step, plan, clock=clock, settle=settle, last_s=warmup_s[-1] if warmup_s else 0.0)
    samples_s: list[float] = []
    spent_s = 0.0
    began = None if second_clock is None else (clock(), second_clock())
    while _wants_more(samples_s, plan, spent_s=spent_s):
        took_s = time_steps(step, n_steps, clock=clock, settle=settle)
        spent_s += took_s
        samples_s.append(took_s / n_steps)
        yield {"sample_s": samples_s[-1], "n_steps": n_steps}
    yield {
        "samples_s": samples_s,
        "n_steps": n_steps,
        "n_warmup": n_done + len(warmup_s),
        "is_steady": was_warm(warmup_s, samples_s, plan),
        "clock_ratio": None if began is None or second_clock is None else _ratio(began, (clock(), second_clock())),
    }


def warm_up(
    step: Callable[[], None],
    plan: SamplePlan,
    *,
    clock: Callable[[], float],
    settle: Callable[[], None],
    n_done: int = 0,
) -> Iterator[float]:
    """The seconds of each warm-up step, which are run until the plan says that it is enough."""
    warmup_s: list[float] = []
    while not _is_warm(warmup_s, plan, n_done=n_done):
        warmup_s.append(time_steps(step, 1, clock=clock, settle=settle))
        yield warmup_s[-1]


def _wants_more(samples_s: Sequence[float], plan: SamplePlan, *, spent_s: float) -> bool:
    if len(samples_s) < plan.min_samples:
        return True
    most_s = plan.few_most_s if len(samples_s) < plan.few_samples else plan.most_s
    if len(samples_s) >= plan.max_samples or spent_s >= most_s:
        return False
    return spent_s < plan.target_s or not is_sure(samples_s, plan.sure_fraction)


def is_sure(samples: Sequence[float], fraction: float) -> bool:
    """Whether the median of samples, in the order in which they were taken, is known to `fraction` (standard error).

    Of normal samples it follows from the range of their middle half. A machine whose speed drifts makes neighbours
    alike, so that many samples say no more than few: medians of consecutive blocks show it.
    """
    low, middle, high = quantiles(samples, n=4, method="inclusive")
    errors = [_MEDIAN_ERROR * (high - low) / _MIDDLE_HALF / math.sqrt(len(samples))]
    size = len(samples) // _N_BLOCKS
    if size > 1:
        blocks = [median(samples[size * n : size * (n + 1)]) for n in range(_N_BLOCKS)]
        errors.append(stdev(blocks) / math.sqrt(_N_BLOCKS))
    return max(errors) <= fraction * middle


def _ratio(began: tuple[float, float], ended: tuple[float, float]) -> float:
    """What passed on the second clock over what passed on the first."""
    return (ended[1] - began[1]) / (ended[0] - began[0])


def time_steps(
    step: Callable[[], None], n_steps: int, *, clock: Callable[[], float], settle: Callable[[], None]
) -> float:
    """Seconds that `n_steps` take, from a settled start to a settled end."""
    settle()
    began_s = clock()
    for _ in range(n_steps):
        step()
    settle()
    return clock() - began_s


def _is_warm(warmup_s: list[float], plan: SamplePlan, *, n_done: int) -> bool:
    if n_done + len(warmup_s) < plan.min_warmup:
        return False
    return _is_steady(warmup_s, plan) or len(warmup_s) >= plan.max_warmup or sum(warmup_s) >= plan.max_warmup_s


def was_warm(warmup_s: Sequence[float], samples_s: Sequence[float], plan: SamplePlan) -> bool:
    """Whether warm-up had ended when sampling began, as the samples show it where the warm-up steps do not."""
    return _is_steady(warmup_s, plan) or not _got_faster(samples_s, plan)


def _is_steady(warmup_s: Sequence[float], plan: SamplePlan) -> bool:
    """Whether the last warm-up step was no more than a little faster than the one before."""
    return len(warmup_s) >= 2 and warmup_s[-1] >= warmup_s[-2] * (1 - plan.steady_fraction)


def _got_faster(samples_s: Sequence[float], plan: SamplePlan) -> bool:
    """Whether warm-up went on in the samples: the last quarter of them is faster than the first."""
    n_end = max(2, len(samples_s) // 4)
    return median(samples_s[-n_end:]) < median(samples_s[:n_end]) * (1 - plan.steady_fraction)


def _steps_a_sample(
    step: Callable[[], None],
    plan: SamplePlan,
    *,
    clock: Callable[[], float],
    settle: Callable[[], None],
    last_s: float,
) -> int:
    """Steps in one sample so that it is long against the clock's tick and the cost of reading it.

    `last_s` is what the last warm-up step took: one that is long enough need not be run again to know it.
    """
    wanted_s = max(plan.min_sample_s, _CLOCK_TICKS * _tick_s(clock))
    n_steps, took_s = 1, last_s
    while n_steps <= _MOST_STEPS_A_SAMPLE:
        if took_s >= wanted_s:
            return n_steps
        grow = wanted_s / took_s * 1.2 if took_s > wanted_s / 20 else 10.0  # a reading of a few ticks says little
        n_steps = max(n_steps + 1, math.ceil(n_steps * grow))
        took_s = time_steps(step, n_steps, clock=clock, settle=settle)
    raise ProbeError(f"{_MOST_STEPS_A_SAMPLE} steps took less than {wanted_s:g} s", hint="there is nothing to time")


def _tick_s(clock: Callable[[], float]) -> float:
    """The smallest step of the clock, seen by reading it until it moves."""
    began_s = clock()
    for _ in range(10_000_000):
        now_s = clock()
        if now_s != began_s:
            return abs(now_s - began_s)
    raise ProbeError("the clock stands still", hint="no time can be measured on this system")
