"""What is shown of a memory estimate: the peak, its parts, what it assumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flopwatch import units
from flopwatch.record import MemoryResult
from flopwatch.report.document import Block, Cell, Column, Fact, Facts, Heading, Table
from flopwatch.report.messages import Words


def blocks(results: Sequence[MemoryResult], words: Words) -> list[Block]:
    """One section a model."""
    return [block for result in results for block in _one(result, words)]


def _one(result: MemoryResult, words: Words) -> list[Block]:
    peak = words(
        "memory.peak_value", peak=units.format_bytes(result.peak_bytes), source=words(f"source.{result.source}")
    )
    rows = [Fact(label=words("memory.peak"), value=peak, exact=f"{result.peak_bytes:,}", style="strong")]
    rows += _more_facts(result, words)
    if result.assumptions:
        assumed = words("list.clauses").join(words.said(text) for text in result.assumptions)
        rows.append(Fact(label=words("memory.assumptions"), value=assumed))
    return [
        Heading(text=words("memory.title", model=result.model, what=_what(result, words))),
        Facts(rows=rows),
        parts_table(result, words),
        *_largest_table(result, words),
    ]


def _what(result: MemoryResult, words: Words) -> str:
    """The step that the peak is of, as far as the result says, as it follows the title."""
    size = None
    if result.batch is not None and result.seq_len is not None:
        size = words("tokens", n=f"{result.batch} x {result.seq_len}")
    phase = None if result.phase is None else words.said(result.phase)
    return "".join(words("list.parts") + part for part in (phase, size) if part is not None)


def _more_facts(result: MemoryResult, words: Words) -> list[Fact]:
    """The verdict of a device, the moment of the peak, the cache, where the result has them."""
    facts = []
    verdict = result.details.get("device")
    if verdict is not None:
        facts.append(Fact(label=words("memory.device", name=verdict["name"]), value=_verdict(verdict, words)))
    at = result.details.get("at")
    if at is not None and at["op"]:
        module = at["module"] or words("memory.at_root")
        facts.append(
            Fact(
                label=words("memory.at"),
                value=words("memory.at_value", phase=words.said(at["phase"]), op=at["op"], module=module),
            )
        )
    cache_bytes = result.details.get("kv_cache_bytes")
    if cache_bytes:
        value = words("memory.cache_value", cache=units.format_bytes(cache_bytes))
        facts.append(Fact(label=words("memory.cache"), value=value))
    return facts


def _verdict(verdict: Mapping[str, Any], words: Words) -> str:
    if verdict["fits"] is None:
        return words("na_because", reason=words.said(verdict["reason"]))
    allowed = units.format_bytes(verdict["limit_bytes"] or verdict["memory_bytes"])
    margin = units.format_bytes(abs(verdict["margin_bytes"]))
    return words("memory.fits" if verdict["fits"] else "memory.does_not_fit", margin=margin, allowed=allowed)


def _largest_table(result: MemoryResult, words: Words) -> list[Table]:
    """The largest tensors that are alive at the peak, with the operator and module that made them."""
    largest = result.details.get("largest")
    if not largest:
        return []
    return [
        Table(
            title=words("memory.largest"),
            columns=[
                Column(name=words("col.memory")),
                Column(name=words("col.part"), is_number=False),
                Column(name=words("col.operator"), is_number=False),
                Column(name=words("col.module"), is_number=False),
            ],
            rows=[
                [
                    (f"{row['count']} x " if row["count"] > 1 else "") + units.format_bytes(row["n_bytes"]),
                    words.said(row["part"]),
                    row["op"],
                    row["module"],
                ]
                for row in largest
            ],
        )
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
                words.said(name),
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
