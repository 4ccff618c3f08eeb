"""The search for the matmul shape that runs fastest: ramp, coarse, around the best, finalists. Knows no torch."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal

Layout = Literal["nn", "nt"]

# Proportions m : n : k; the volume is the same for all, so that a long side costs no more time than a cube.
_PROPORTIONS: Final = (
    (1, 1, 1), (1, 4, 1), (4, 1, 1), (1, 1, 4), (2, 2, 1), (1, 2, 2), (2, 1, 2),
    (1, 2, 1), (2, 1, 1), (1, 1, 2), (4, 4, 1), (1, 4, 4), (4, 1, 4), (1, 8, 1),
)  # fmt: skip
_STEPS: Final = (0.75, 0.875, 1.125, 1.25, 1.5)
_RAMP_START: Final = 256
_RAMP_LEAST: Final = 1024  # CPU libraries take their fast path for bf16 from about here on
_MULTIPLE: Final = 64  # every kernel's tile divides it
_N_FINALISTS: Final = 6
_LEAST_ROUNDS: Final = 7
_MOST_ROUNDS: Final = 41
_DRIFT: Final = 0.03


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class Shape:
    """A matmul [m, k] @ [k, n]; `nt`: the second operand is stored as [n, k], as nn.Linear has it."""

    m: int
    n: int
    k: int
    layout: Layout = "nn"

    @property
    def flops(self) -> int:
        """Two operations a multiply-add."""
        return 2 * self.m * self.n * self.k

    @property
    def n_elements(self) -> int:
        """Elements of both operands and the result."""
        return self.m * self.k + self.k * self.n + self.m * self.n


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SearchPlan:
    """How long the search may take, the longest single matmul, and the most elements that fit in memory."""

    budget_s: float = 16.0
    call_s: float = 0.12
    most_call_s: float = 1.0
    most_elements: int = 1 << 31


class _Trials:
    """Every shape that was tried, with its samples: seconds of one matmul each."""

    def __init__(self, sample: Callable[[Shape], float], *, most_call_s: float) -> None:
        self.sample = sample
        self.most_call_s = most_call_s
        self.samples_s: dict[Shape, list[float]] = {}

    def add(self, shape: Shape, n_samples: int) -> None:
        """Take samples of a shape; the first of a new shape is its warm-up, kept only if it is too slow for more."""
        if shape not in self.samples_s:
            warmup_s = self.sample(shape)
            self.samples_s[shape] = [warmup_s] if warmup_s > self.most_call_s else []
            if warmup_s > self.most_call_s:
                return
        self.samples_s[shape] += [self.sample(shape) for _ in range(n_samples)]

    def rate(self, shape: Shape) -> float:
        """FLOP/s at the median of the shape's samples."""
        return shape.flops / statistics.median(self.samples_s[shape])

    def best(self, n: int) -> list[Shape]:
        """The `n` fastest shapes so far, the fastest first."""
        return sorted(self.samples_s, key=self.rate, reverse=True)[:n]

    def row(self, shape: Shape, stage: str) -> dict[str, Any]:
        """A shape with its rate, as plain data."""
        return {
            "stage": stage,
            "shape": [shape.m, shape.n, shape.k],
            "layout": shape.layout,
            "flops_per_s": self.rate(shape),
        }


def search_shapes(
    sample: Callable[[Shape], float], plan: SearchPlan, *, clock: Callable[[], float]
) -> Iterator[dict[str, Any]]:
    """Rows `{stage, shape, layout, flops_per_s}` as shapes are tried, and a last summary of the fastest.

    `sample(shape)` returns the seconds that one matmul takes. A dtype that the device only emulates gets slower as it
    grows, one that has a fast path for large sizes only gets faster: so the ramp starts small, and grows while the
    next size can be paid.
    """
    start_s = clock()
    trials = _Trials(sample, most_call_s=plan.most_call_s)
    yield from _ramp(trials, plan)
    flops = 0.0
    while _call_flops(trials, plan) > 2 * flops:  # a fast path that only some shapes take opens larger ones
        flops = _call_flops(trials, plan)
        deadline_s = start_s + 0.45 * plan.budget_s
        yield from _try(trials, coarse_shapes(flops, plan.most_elements), "coarse", deadline_s, clock)
    around = _around(trials.best(3), flops, plan.most_elements)
    yield from _try(trials, around, "around", start_s + 0.70 * plan.budget_s, clock)
    yield _finals(trials, plan, deadline_s=start_s + plan.budget_s, clock=clock)


def _try(
    trials: _Trials, shapes: Iterable[Shape], stage: str, deadline_s: float, clock: Callable[[], float]
) -> Iterator[dict[str, Any]]:
    """Two samples of each new shape, until the stage's time is over."""
    for shape in shapes:
        if clock() > deadline_s:
            return
        if shape not in trials.samples_s:
            trials.add(shape, 2)
            yield trials.row(shape, stage)


def _ramp(trials: _Trials, plan: SearchPlan) -> Iterator[dict[str, Any]]:
    """Cubes of growing size, until the next one would take too long, or is long enough to be timed well."""
    size = _RAMP_START
    while True:
        shape = Shape(size, size, size)
        trials.add(shape, 1)
        if trials.samples_s[shape][0] < plan.call_s:
            trials.add(shape, 2)  # one sample that was disturbed must not end the ramp
        yield trials.row(shape, "ramp")
        call_s = min(trials.samples_s[shape])
        is_too_slow = call_s * 8 > plan.most_call_s  # the next one has eight times the work
        is_enough = size >= _RAMP_LEAST and call_s > plan.call_s / 4
        if is_too_slow or is_enough or Shape(2 * size, 2 * size, 2 * size).n_elements > plan.most_elements:
            return
        size *= 2


def _call_flops(trials: _Trials, plan: SearchPlan) -> float:
    """Work of one matmul of about `call_s` at the best rate so far, if that holds for the largest tried."""
    best = trials.best(1)[0]
    largest = max(trials.samples_s, key=lambda shape: shape.flops)
    if trials.rate(largest) < 0.2 * trials.rate(best):  # emulated: large ones fall out of the cache
        return best.flops
    return trials.rate(best) * plan.call_s


def coarse_shapes(flops: float, most_elements: int) -> list[Shape]:
    """Shapes of several volumes up to `flops` in many proportions, the most promising first."""
    shapes = []
    for volume in (1.0, 0.5, 0.25, 0.125):
        for proportion in _PROPORTIONS:
            side = (flops * volume / 2 / math.prod(proportion)) ** (1 / 3)
            m, n, k = (_aligned(side * part) for part in proportion)
            shape = Shape(m, n, k)
            if shape.n_elements <= most_elements:
                shapes.append(shape)
    return list(dict.fromkeys(shapes))


def _around(best: Iterable[Shape], flops: float, most_elements: int) -> list[Shape]:
    """The other layout of the best shapes, and each with one side changed a little."""
    shapes = []
    for shape in best:
        other: Layout = "nt" if shape.layout == "nn" else "nn"
        shapes.append(dataclasses.replace(shape, layout=other))
        shapes += [dataclasses.replace(shape, m=_aligned(shape.m * step)) for step in _STEPS]
        shapes += [dataclasses.replace(shape, n=_aligned(shape.n * step)) for step in _STEPS]
        shapes += [dataclasses.replace(shape, k=_aligned(shape.k * step)) for step in _STEPS]
    return [s for s in dict.fromkeys(shapes) if s.flops <= 2 * flops and s.n_elements <= most_elements]


def _aligned(size: float) -> int:
    return max(_MULTIPLE, round(size / _MULTIPLE) * _MULTIPLE)


def _finals(trials: _Trials, plan: SearchPlan, *, deadline_s: float, clock: Callable[[], float]) -> dict[str, Any]:
    """The fastest of the finalists, sampled in turn so that a change of clock meets all of them alike.

    Samples of the earlier stages are left behind: a shape that was lucky once must be fast again. When the rounds get
    faster by more than a few percent the device was still warming up, and the first half of them is dropped.
    """
    finals = _Trials(trials.sample, most_call_s=plan.most_call_s)
    finals.samples_s = {shape: [] for shape in trials.best(_N_FINALISTS)}
    n_rounds = 0
    while n_rounds < _LEAST_ROUNDS or (n_rounds < _MOST_ROUNDS and clock() < deadline_s):
        if n_rounds >= 3 and clock() > deadline_s + plan.budget_s:  # a device this slow is not sampled for ever
            break
        for shape in finals.samples_s:
            finals.add(shape, 1)
        n_rounds += 1
    by_round = zip(*([t / s.flops for t in times] for s, times in finals.samples_s.items()), strict=True)
    drift = _drift([statistics.fmean(times) for times in by_round])
    n_dropped = n_rounds // 2 if drift < -_DRIFT else 0
    everything = {shape: trials.samples_s[shape] + finals.samples_s.get(shape, []) for shape in trials.samples_s}
    finals.samples_s = {shape: samples_s[n_dropped:] for shape, samples_s in finals.samples_s.items()}
    best = finals.best(1)[0]
    samples_s = finals.samples_s[best]
    return {
        **finals.row(best, "final"),
        "samples_s": samples_s,
        "spread_fraction": max(samples_s) / min(samples_s) - 1,
        "best_flops_per_s": max(shape.flops / min(times) for shape, times in everything.items()),
        "n_shapes": len(everything),
        "n_dropped": n_dropped,
        "drift_fraction": drift,
        "finalists": [finals.row(shape, "final") for shape in finals.best(_N_FINALISTS)],
    }


def _drift(times: list[float]) -> float:
    """How much longer the last third of the rounds took than the first; negative: the device was still warming up."""
    third = max(1, len(times) // 3)
    return statistics.median(times[-third:]) / statistics.median(times[:third]) - 1
