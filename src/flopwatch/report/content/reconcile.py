"""What is shown of a reconciliation: closed form beside trace, term by term, the largest disagreement first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flopwatch import units
from flopwatch.report.document import Block, Cell, Column, Note, Table
from flopwatch.report.messages import Words


def reconcile_blocks(found: Mapping[str, Any], words: Words) -> list[Block]:
    """The verdict in one line, the table, and the names of what explains a difference."""
    rows: Sequence[Mapping[str, Any]] = found["rows"]
    largest = max((abs(row["difference"]) for row in rows), default=0)
    blocks: list[Block] = [
        Table(
            title=words("reconcile.title"),
            columns=[
                Column(name=words("col.phase"), is_number=False),
                Column(name=words("col.part"), is_number=False),
                Column(name=words("reconcile.closed_form")),
                Column(name=words("reconcile.traced")),
                Column(name=words("reconcile.difference")),
            ],
            rows=[
                [
                    words.said(row["phase"]),
                    words.said(row["name"]),
                    f"{row['closed_form']:,}",
                    f"{row['traced']:,}",
                    Cell(text=f"{row['difference']:+,}" if row["difference"] else "0", style=_style(row)),
                ]
                for row in rows
            ],
        )
    ]
    if found["is_exact"]:
        return [*blocks, Note(text=words("reconcile.exact"), style="good")]
    named = found["explained_by"]
    blocks.append(Note(text=words("reconcile.off", largest=units.format_flops(largest)), style="warn"))
    if named:
        return [*blocks, *(Note(text=words("reconcile.explained", text=words.said(text))) for text in named)]
    return [*blocks, Note(text=words("reconcile.unexplained"), style="bad")] if named is None else blocks


def _style(row: Mapping[str, Any]) -> Any:
    return "warn" if row["difference"] else "dim"
