"""What is shown of `doctor`: one line for each thing that was looked at."""

from __future__ import annotations

from collections.abc import Sequence

from flopwatch.record import CheckResult
from flopwatch.report.document import Block, Cell, Column, Style, Table
from flopwatch.report.messages import Words

_STYLES: dict[str, Style] = {"ok": "good", "n/a": "warn", "failed": "bad"}


def blocks(results: Sequence[CheckResult], words: Words) -> list[Block]:
    """One table; the way out stands under what falls short."""
    return [
        Table(
            columns=[
                Column(name=words("col.check"), is_number=False),
                Column(name="", is_number=False),
                Column(name=words("col.found"), is_number=False),
            ],
            rows=[
                [
                    Cell(text=words.said(result.name), style="strong"),
                    Cell(text=words.said(result.outcome), style=_STYLES[result.outcome]),
                    words("list.clauses").join(words.said(text) for text in (result.found, result.way_out) if text),
                ]
                for result in results
            ],
        )
    ]
