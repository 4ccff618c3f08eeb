"""A document as blocks: what every drawer (terminal, Markdown, HTML) is given, whatever the kind of record."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Literal

import msgspec

Style = Literal["", "strong", "dim", "good", "warn", "bad"]


class _Block(msgspec.Struct, frozen=True, kw_only=True):
    """Common ground of all blocks."""


class Heading(_Block, frozen=True, kw_only=True):
    """The start of a section; level 1 is the whole document's."""

    text: str
    level: int = 2


class Note(_Block, frozen=True, kw_only=True):
    """A paragraph."""

    text: str
    style: Style = ""


class Fact(_Block, frozen=True, kw_only=True):
    """One figure with its name; `exact` is the same figure to the last digit, where there is one."""

    label: str
    value: str
    exact: str = ""
    style: Style = ""


class Facts(_Block, frozen=True, kw_only=True):
    """Figures below one another."""

    rows: Sequence[Fact]


class Cell(_Block, frozen=True, kw_only=True):
    """One cell; `bar` in 0..1 asks for a bar of that length beside the text."""

    text: str
    style: Style = ""
    bar: float | None = None


class Column(_Block, frozen=True, kw_only=True):
    """One column. Text columns may wrap, numbers never do; where room is short, those of rank 1 and up are left out."""

    name: str
    is_number: bool = True
    rank: int = 0


class Table(_Block, frozen=True, kw_only=True):
    """Rows under named columns. A cell may be given as plain text."""

    title: str = ""
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell | str]]
    note: str = ""


Block = Heading | Note | Facts | Table


def one_line(text: str) -> str:
    """The text with control characters, the ends of lines among them, as spaces."""
    return "".join(" " if unicodedata.category(c)[0] == "C" else c for c in text)
