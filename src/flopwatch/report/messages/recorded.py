"""What a record says in English, put into Chinese when it is drawn: values by name, sentences by their pattern.

A record keeps reasons, sources and notes in English, whoever reads it. Each sentence that a part of flopwatch writes
into one has a pair here; a text that has none is shown as it stands. A reason within a reason is translated in its
turn, so that a pair is written once; names are left alone.
"""

from __future__ import annotations

import functools
import re
from typing import Final

from flopwatch.report.messages.remarks import REMARKS
from flopwatch.report.messages.sentences import SENTENCES
from flopwatch.report.messages.values import VALUES

_PLACE: Final = re.compile(r"\{(\w+)\}")
# Places that hold words of a record again.
_SAID: Final = frozenset({"phase", "reason", "source", "more_source", "note", "causes", "recompute"})
# What a place may hold, where that is less than anything; one whose name begins with `n_` holds a number.
_HOLDS: Final = {
    "phase": "forward|train|prefill|decode",
    "dtype": r"[a-z]+\d+",
    "date": r"\d{4}-\d\d-\d\d",
    "ratio": "MFU|HFU",
    "formula": r"[\dNWaLTdV+ ().^x-]+",
    "word": r"\S+",
}
_NUMBER: Final = r"[+-]?[\d,.]+"


@functools.lru_cache(maxsize=4096)
def in_chinese(text: str) -> str:
    """The Chinese of what a record says; the text itself where there is none."""
    if text in VALUES:
        return VALUES[text]
    for pattern, chinese in _patterns():
        found = pattern.fullmatch(text)
        if found is not None:
            return chinese.format(**{name: _filled(name, value) for name, value in found.groupdict().items()})
    return text


def _filled(place: str, value: str) -> str:
    """What stands in a place: words of a record again, a result by its model and what it is of, or a name."""
    if place == "result":
        model, *words = value.split(" ")
        return " ".join([model, *(VALUES.get(word, word) for word in words)])
    return in_chinese(value) if place in _SAID else value


@functools.cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(_pattern_of(english), re.DOTALL), chinese) for english, chinese in (*SENTENCES, *REMARKS)]


def _pattern_of(english: str) -> str:
    """A sentence as a regular expression with a named group for each place."""
    pieces = _PLACE.split(english)
    return "".join(_group(piece) if index % 2 else re.escape(piece) for index, piece in enumerate(pieces))


def _group(name: str) -> str:
    holds = _NUMBER if name.startswith("n_") else _HOLDS.get(name, ".+?")
    return f"(?P<{name}>{holds})"
