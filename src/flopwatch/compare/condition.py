"""A condition on a change, as a CI job writes it: `tokens_per_s<-5%` is met when tokens/s fell by more than 5 %."""

from __future__ import annotations

import difflib
import math
import re
from typing import Final, Literal

import msgspec

from flopwatch.compare.runs import Comparison
from flopwatch.errors import InputError
from flopwatch.record import ChangeRow, CompareResult

_FORM: Final = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*([<>])\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*%\s*")
_EXAMPLES: Final = "write it like 'tokens_per_s<-5%' (fell by more than 5 %) or 'flops>0%' (grew at all)"


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """A figure, a direction and a change: `mfu` stands for every figure that begins with `mfu.`."""

    figure: str
    direction: Literal["<", ">"]
    percent: float

    def __str__(self) -> str:
        """The condition as it is written."""
        return f"{self.figure}{self.direction}{self.percent:g}%"

    def names(self, figure: str) -> bool:
        """Whether it is about that figure."""
        return figure == self.figure or figure.startswith(f"{self.figure}.")


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a condition says of two runs: the changes that meet it, and those that would but for the noise.

    `lost` are the results that have the figure in the first run and are not in the second: nothing can be said of them.
    """

    condition: Condition
    met: list[str]
    in_noise: list[str]
    lost: list[str]


def parse_condition(text: str) -> Condition:
    """The condition in `text`; raises InputError for one that cannot be read."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise InputError(f"--fail-if {text!r} is not a condition", hint=_EXAMPLES)
    figure, direction, percent = match.groups()
    return Condition(figure=figure, direction="<" if direction == "<" else ">", percent=float(percent))


def judge(condition: Condition, comparison: Comparison) -> Verdict:
    """Whether the changes meet the condition.

    A change within the noise does not meet it. Where the noise is not known the change is taken as it is. A figure
    that disappeared (tokens/s, a batch that fits) fell by all it was. Raises InputError when no result has the figure.
    """
    rows = [(result, row) for result in comparison.results for row in result.changes]
    known = list(dict.fromkeys(row.figure for _, row in rows))
    lost = [one.name for one in comparison.lost if any(condition.names(figure) for figure in one.figures)]
    if not lost and not any(condition.names(name) for name in known):
        near = difflib.get_close_matches(condition.figure, known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}"
        raise InputError(f"--fail-if {condition}: no figure {condition.figure!r} is in both records", hint=hint)
    met: list[str] = []
    in_noise: list[str] = []
    for result, row in rows:
        if condition.names(row.figure) and _is_past(condition, row):
            (in_noise if row.beyond_noise is False else met).append(_said(result, row))
    return Verdict(condition=condition, met=met, in_noise=in_noise, lost=lost)


def _is_past(condition: Condition, row: ChangeRow) -> bool:
    change = 100 * _change_fraction(row)
    return change < condition.percent if condition.direction == "<" else change > condition.percent


def _change_fraction(row: ChangeRow) -> float:
    if row.change_fraction is not None:
        return row.change_fraction
    if row.before == row.after:
        return 0.0
    if row.after is None:
        return -1.0
    return math.inf if row.before is None or row.after > row.before else -math.inf


def _said(result: CompareResult, row: ChangeRow) -> str:
    change = "" if row.change_fraction is None else f" ({100 * row.change_fraction:+.2f} %)"
    phase = f" {result.phase}" if result.phase else ""
    return f"{result.model}{phase} {row.figure}: {_text(row.before)} -> {_text(row.after)}{change}"


def _text(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
