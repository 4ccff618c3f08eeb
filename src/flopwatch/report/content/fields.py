"""What is shown of a kind without a drawing of its own: its fields as they stand in the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flopwatch.report.document import Block, Column, Fact, Facts, Heading, Table
from flopwatch.report.messages import Words

_MOST_ROWS = 200


def blocks(results: Sequence[Mapping[str, Any]], words: Words) -> list[Block]:
    """One section a result: plain fields below one another, lists of objects as tables."""
    shown: list[Block] = []
    for result in results:
        plain = {key: value for key, value in flat(result).items() if not isinstance(value, list)}
        title = result.get("model") or result.get("device")
        shown += [Heading(text=str(title))] if title else []
        shown.append(Facts(rows=[Fact(label=key, value=text_of(value, words)) for key, value in plain.items()]))
        shown += [_table(k, v, words) for k, v in flat(result).items() if isinstance(v, list) and v]
    return shown


def flat(result: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as dotted names; lists are kept as they are."""
    fields: dict[str, Any] = {}
    for key, value in result.items():
        if isinstance(value, Mapping):
            fields |= flat(value, f"{prefix}{key}.")
        else:
            fields[prefix + key] = value
    return fields


def text_of(value: object, words: Words) -> str:
    """A value of the record as text: separators in integers, n/a for null."""
    if value is None:
        return words("na")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _table(name: str, items: Sequence[Any], words: Words) -> Table:
    rows = [flat(item) if isinstance(item, Mapping) else {name: item} for item in items[:_MOST_ROWS]]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return Table(
        title=name,
        columns=[
            Column(name=key, is_number=all(isinstance(row.get(key), int | float | None) for row in rows))
            for key in keys
        ],
        rows=[[text_of(row[key], words) if key in row else "" for key in keys] for row in rows],
        note="" if len(items) <= _MOST_ROWS else words("count.more", n=len(items) - _MOST_ROWS),
    )
