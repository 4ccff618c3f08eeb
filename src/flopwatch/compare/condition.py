"""A condition on a change, as a CI job writes it: `tokens_per_s<-5%` is met when tokens/s fell by more than 5 %."""

from __future__ import annotations

import difflib
import math
import re
from fractions import Fraction
from typing import Final, Literal

import msgspec

from flopwatch.compare.runs import Comparison
from flopwatch.errors import InputError
from flopwatch.record import ChangeRow, CompareResult

_FORM: Final = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*([<>])\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*%\s*")
_EXAMPLES: Final = "write it like 'tokens_per_s<-5%' (fell by more than 5 %) or 'flops>0%' (grew at all)"
_NONE_FITS: Final = "batch"  # the figure that is null for a reason of its own


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

    `lost` says why nothing can be said of a figure that the first run has: it, or its result, is not in the second.
    """

    condition: Condition
    met: list[str]
    in_noise: list[str]
    lost: list[str]


def parse_condition(text: str) -> Condition:
    """The condition in `text`; raises InputError for one that cannot be read."""
    match = _FORM.fullmatch(text)
    if match is None or not math.isfinite(float(match[3])):
        raise InputError(f"--fail-if {text!r} is not a condition", hint=_EXAMPLES)
    figure, direction, percent = match.groups()
    return Condition(figure=figure, direction="<" if direction == "<" else ">", percent=float(percent))


def judge(condition: Condition, comparison: Comparison) -> Verdict:
    """Whether the changes meet the condition.

    A change within the noise does not meet it, unless no change would: `tokens_per_s<5%` asks for a gain. Where the
    noise is not known the change is taken as it is. A batch that no longer fits fell by all it was; any other figure
    that is n/a in the second run cannot be judged. Raises InputError when no result has the figure.
    """
    rows = [(result, row) for result in comparison.results for row in result.changes]
    known = list(dict.fromkeys(row.figure for _, row in rows))
    lost = [one.said for one in comparison.lost if any(condition.names(figure) for figure in one.figures)]
    if not lost and not any(condition.names(name) for name in known):
        near = difflib.get_close_matches(condition.figure, known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}"
        raise InputError(f"--fail-if {condition}: no figure {condition.figure!r} is in both records", hint=hint)
    met: list[str] = []
    in_noise: list[str] = []
    for result, row in rows:
        if not condition.names(row.figure):
            continue
        if row.after is None and row.figure != _NONE_FITS:
            lost.append(_said(result, row))
        elif _is_past(condition, _change_percent(row)):
            is_noise = row.beyond_noise is False and not _is_past(condition, 0)
            (in_noise if is_noise else met).append(_said(result, row))
    return Verdict(condition=condition, met=met, in_noise=in_noise, lost=lost)


def _is_past(condition: Condition, change_percent: Fraction | float) -> bool:
    limit_percent = Fraction(str(condition.percent))  # as it is written: the float nearest to 0.3 is below it
    return change_percent < limit_percent if condition.direction == "<" else change_percent > limit_percent


def _change_percent(row: ChangeRow) -> Fraction | float:
    """The change to the last digit: in floats 950 after 1000 is a fall by more than 5 %, and 1 FLOP in 1e17 is none."""
    if row.before and row.after is not None:
        return 100 * (Fraction(row.after) / Fraction(row.before) - 1)
    if row.before == row.after:
        return 0
    if row.after is None:
        return -100
    return math.inf if row.before is None or row.after > row.before else -math.inf


def _said(result: CompareResult, row: ChangeRow) -> str:
    change = "" if row.change_fraction is None else f" ({100 * row.change_fraction:+.2f} %)"
    phase = f" {result.phase}" if result.phase else ""
    return f"{result.model}{phase} {row.figure}: {_text(row.before)} -> {_text(row.after)}{change}"


def _text(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
