"""A record as Markdown: for pull requests, issues and notes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from flopwatch.record import Record
from flopwatch.report.content import blocks_of
from flopwatch.report.content.figures import warnings_beside
from flopwatch.report.document import Block, Cell, Fact, Facts, Heading, Note, Table, one_line
from flopwatch.report.messages import Language, Words

# What starts or ends something in Markdown, wherever it stands in a line; names are text and nothing else.
_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>|~#!&])")


def to_markdown(record: Record, *, lang: Language = "en") -> str:
    """The record as GitHub-flavoured Markdown, all columns of every table in it, the warnings at the end."""
    words = Words(lang)
    blocks = list(blocks_of(record, words))
    parts = [part for block in blocks for part in _block(block, words)]
    warnings = warnings_beside(blocks, record.warnings, words)
    if warnings:
        parts.append("\n".join(f"> {_text(words('warning', text=text))}" for text in warnings))
    return "\n\n".join(parts)


def _block(block: Block, words: Words) -> list[str]:
    match block:
        case Heading():
            return [f"{'#' * (block.level + 1)} {_text(block.text)}"]
        case Note():
            return [_text(block.text)]
        case Facts():
            return ["\n".join(_fact(row, words) for row in block.rows)]
        case Table():
            return _table(block)


def _fact(fact: Fact, words: Words) -> str:
    value = words("aside", text=fact.value, aside=fact.exact) if fact.exact else fact.value
    strong = "**" if fact.style == "strong" else ""
    return "- " + words("because", what=_text(fact.label), why=f"{strong}{_text(value)}{strong}")


def _table(table: Table) -> list[str]:
    head = [_text(column.name) for column in table.columns]
    rule = ["---:" if column.is_number else ":---" for column in table.columns]
    lines = [_row(head), _row(rule), *(_row(_cells(row)) for row in table.rows)]
    title = [f"**{_text(table.title)}**"] if table.title else []
    return [*title, "\n".join(lines), *([_text(table.note)] if table.note else [])]


def _cells(row: Sequence[Cell | str]) -> list[str]:
    return [_text(cell.text if isinstance(cell, Cell) else cell) for cell in row]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", one_line(text))
