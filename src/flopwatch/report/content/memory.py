"""What is shown of a memory estimate: the peak, its parts, what it assumes."""

from __future__ import annotations

from collections.abc import Sequence

from flopwatch import units
from flopwatch.record import MemoryResult
from flopwatch.report.document import Block, Cell, Column, Fact, Facts, Heading, Table
from flopwatch.report.messages import Words


def blocks(results: Sequence[MemoryResult], words: Words) -> list[Block]:
    """One section a model."""
    return [block for result in results for block in _one(result, words)]


def _one(result: MemoryResult, words: Words) -> list[Block]:
    what = ""
    if result.phase is not None:
        what = f", {result.phase}"
    if result.batch is not None and result.seq_len is not None:
        what += f", {result.batch} x {result.seq_len} tokens"
    peak = words(
        "memory.peak_value", peak=units.format_bytes(result.peak_bytes), source=words(f"source.{result.source}")
    )
    rows = [Fact(label=words("memory.peak"), value=peak, exact=f"{result.peak_bytes:,}", style="strong")]
    rows += [Fact(label=words("memory.assumptions"), value="; ".join(result.assumptions))] if result.assumptions else []
    return [
        Heading(text=words("memory.title", model=result.model, what=what)),
        Facts(rows=rows),
        parts_table(result, words),
    ]


def parts_table(result: MemoryResult, words: Words) -> Table:
    """Bytes by part with their share of the peak."""
    largest = max(result.parts.values(), default=0)
    return Table(
        title=words("memory.by_part"),
        columns=[
            Column(name=words("col.part"), is_number=False),
            Column(name=words("col.bytes"), rank=1),
            Column(name=words("col.memory")),
            Column(name=words("col.share", total=units.format_bytes(result.peak_bytes))),
        ],
        rows=[
            [
                name,
                f"{n:,}",
                units.format_bytes(n),
                Cell(
                    text=units.format_percent(n / result.peak_bytes) if result.peak_bytes else words("na"),
                    bar=n / largest if largest else 0.0,
                ),
            ]
            for name, n in result.parts.items()
        ],
    )
