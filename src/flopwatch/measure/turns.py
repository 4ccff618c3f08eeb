"""Steps that are timed in turn: how they compare, whatever the machine's speed does meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

import msgspec

from flopwatch.measure.bench import BenchRequest, others_notes
from flopwatch.measure.series import ProbeSeries, Progress, answer_of
from flopwatch.measure.timing import Timing, interval_of_median, timing_of
from flopwatch.model.own import import_from, imports
from flopwatch.probe.protocol import ProbeRequest
from flopwatch.probe.turns import TurnPlan, ratios_to_first

_PLAN: Final = TurnPlan()


class InTurn(msgspec.Struct, frozen=True, kw_only=True):
    """Steps timed in turn. `speeds` says how many times as fast as the first each is: median, low and high (95 %).

    They come from each round's own ratio, so that they are surer than the timings, which a drift has widened.
    """

    timings: list[Timing]
    n_steps: list[int]
    speeds: list[tuple[float, float, float]]
    n_rounds: int
    disturbed: str | None = None
    """Why even the speeds are unsure: others used the cores."""


def time_in_turn(requests: Sequence[BenchRequest], series: ProbeSeries, *, plan: TurnPlan = _PLAN) -> InTurn:
    """The steps of two or more requests of one device, timed in turn, each in a process of its own.

    All are in memory at once: the caller sees to it that they fit. Raises ProbeError when one of them fails.
    """
    label = f"{requests[0].spec.name} {requests[0].workload.phase}: timing {len(requests)} in turn"
    series.watch(Progress(label=label))
    outcome = series.ask(_probe(requests, plan), kind="samples")
    found = answer_of(outcome, what=label)
    rounds = found["rounds"]
    timings = [
        timing_of([row[place] for row in rounds], n_warmup=found["n_warmup"][place]) for place in range(len(requests))
    ]
    speeds = [(1.0, 1.0, 1.0), *((median(ratios), *interval_of_median(ratios)) for ratios in ratios_to_first(rounds))]
    others = others_notes(found["others_cores"], outcome, requests[0].device)
    return InTurn(
        timings=timings,
        n_steps=found["n_steps"],
        speeds=speeds,
        n_rounds=len(rounds),
        disturbed=others[0] if others else None,
    )


def _probe(requests: Sequence[BenchRequest], plan: TurnPlan) -> ProbeRequest:
    one = requests[0]
    return ProbeRequest(
        job="time_in_turn",
        arguments={
            "steps": [request.probe().arguments for request in requests],
            "turn_plan": msgspec.to_builtins(plan),
            "import_from": import_from(one.spec),
            "imports": imports(one.spec),
        },
        limit_bytes=one.limit.limit_bytes,
        device=one.device,
        timeout_s=one.timeout_s,
        n_threads=one.n_threads,
    )
