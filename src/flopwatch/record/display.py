"""A result as a table of its figures, for notebooks and notes: every figure under the name it has in the record."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any


def figures(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and text of each figure, nested ones under dotted names; a list is given by its length."""
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from figures(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield f"{prefix}{name}", _list_text(value)
        else:
            yield f"{prefix}{name}", _text(value)


def to_markdown(data: Mapping[str, Any]) -> str:
    """The figures as a Markdown table."""
    rows = [f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in figures(data)]
    return "\n".join(["| figure | value |", "|---|--:|", *rows])


def to_html(data: Mapping[str, Any]) -> str:
    """The figures as an HTML table; all text is escaped."""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in figures(data)
    )
    return f"<table><tr><th>figure</th><th>value</th></tr>{rows}</table>"


def _text(value: Any) -> str:
    if value is None:
        return "n/a"
    if isinstance(value, (bool, str)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _list_text(values: list[Any]) -> str:
    if values and all(isinstance(value, str | int | float) for value in values) and len(values) <= 8:
        return ", ".join(_text(value) for value in values)
    return f"{len(values)} entries" if len(values) != 1 else "1 entry"
