"""Several steps timed in turn, round after round: a drift of the machine's speed meets all of them. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from flopwatch.probe.sampling import is_sure

_MOST_ROUNDS: Final = 1000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TurnPlan:
    """How steps are timed in turn: a turn is at least `turn_s` long and at least one step.

    There are at least `min_rounds`, then more until `target_s` is spent on each and how they compare to the first is
    known to `sure_fraction` (the standard error of the median ratio), or `most_s` is spent on each.
    """

    turn_s: float = 0.2
    min_rounds: int = 5
    target_s: float = 4.0
    most_s: float = 30.0
    sure_fraction: float = 0.004


def take_turns(
    turns: Sequence[Callable[[], float]], plan: TurnPlan, *, clock: Callable[[], float]
) -> Iterator[list[float]]:
    """The seconds a step of each, a list a round; one turn is a call, which returns the seconds of a step in it.

    Every other round goes backwards: none of them always comes first.
    """
    rounds: list[list[float]] = []
    began_s = clock()
    order = range(len(turns))
    while _wants_more(rounds, plan, spent_s=(clock() - began_s) / len(turns)):
        took_s = {place: turns[place]() for place in (order if len(rounds) % 2 == 0 else reversed(order))}
        rounds.append([took_s[place] for place in order])
        yield rounds[-1]


def ratios_to_first(rounds: Sequence[Sequence[float]]) -> list[list[float]]:
    """For each but the first: how many times as fast as the first it was, round by round."""
    return [[row[0] / row[place] for row in rounds] for place in range(1, len(rounds[0]))]


def _wants_more(rounds: Sequence[Sequence[float]], plan: TurnPlan, *, spent_s: float) -> bool:
    if len(rounds) < plan.min_rounds:
        return True
    if len(rounds) >= _MOST_ROUNDS or spent_s >= plan.most_s:
        return False
    return spent_s < plan.target_s or not all(is_sure(one, plan.sure_fraction) for one in ratios_to_first(rounds))
