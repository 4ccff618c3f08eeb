"""What is shown of a roofline: the least time, what binds it, the highest MFU, and the operators that take longest."""

from __future__ import annotations

from collections.abc import Sequence

from flopwatch import units
from flopwatch.record import RooflineResult, RooflineRow
from flopwatch.report.document import Block, Cell, Column, Fact, Facts, Heading, Note, Table
from flopwatch.report.messages import Words

_MOST_ROWS = 16


def blocks(results: Sequence[RooflineResult], words: Words) -> list[Block]:
    """One section a model."""
    shown: list[Block] = []
    for result in results:
        title = words(
            "roofline.title",
            model=result.model,
            phase=words.said(result.phase),
            batch=result.batch,
            seq_len=result.seq_len,
            dtype=result.dtype,
            device=result.device,
        )
        shown += [Heading(text=title), Facts(rows=_facts(result, words)), _operators(result, words)]
        shown += [Note(text=words.said(text), style="dim") for text in result.assumptions]
    return shown


def _facts(result: RooflineResult, words: Words) -> list[Fact]:
    mfu = words(
        "roofline.mfu_value",
        percent=units.format_percent(result.highest_mfu),
        peak=units.format_rate(result.peak_flops_per_s),
        source=words.said(result.peak_source),
    )
    bandwidth = words(
        "roofline.bandwidth_value",
        rate=units.format_bandwidth(result.bandwidth_bytes_per_s),
        source=words.said(result.bandwidth_source),
    )
    if result.compute_bound_batch is not None:
        batch = f"{result.compute_bound_batch:,}"
    elif "compute_bound_reason" in result.details:
        batch = words("na_because", reason=words.said(result.details["compute_bound_reason"]))
    else:
        batch = words("roofline.no_batch")
    return [
        Fact(label=words("roofline.time"), value=units.format_seconds(result.time_s), style="strong"),
        Fact(label=words("roofline.tokens"), value=words("tokens_per_s", rate=f"{result.tokens_per_s:,.0f}")),
        Fact(label=words("roofline.mfu"), value=mfu, style="strong"),
        Fact(
            label=words("roofline.bound"),
            value=words("roofline.bound_value", percent=units.format_percent(result.compute_bound_fraction)),
        ),
        Fact(label=words("roofline.batch"), value=batch),
        Fact(label=words("roofline.bandwidth"), value=bandwidth),
    ]


def _operators(result: RooflineResult, words: Words) -> Table:
    rows = result.operators[:_MOST_ROWS]
    longest = max((row.time_s for row in rows), default=0.0)
    n_more = len(result.operators) - len(rows)
    return Table(
        title=words("roofline.operators"),
        columns=[
            Column(name=words("col.operator"), is_number=False),
            Column(name=words("col.stage"), is_number=False, rank=1),
            Column(name=words("col.calls"), rank=3),
            Column(name=words("col.flops"), rank=2),
            Column(name=words("col.bytes"), rank=2),
            Column(name=words("col.intensity"), rank=3),
            Column(name=words("col.bound"), is_number=False),
            Column(name=words("col.time")),
            Column(name=words("col.time_share")),
        ],
        rows=[_row(row, result.time_s, longest, words) for row in rows],
        note="" if n_more <= 0 else words("count.more", n=n_more),
    )


def _row(row: RooflineRow, whole_s: float, longest_s: float, words: Words) -> list[Cell | str]:
    return [
        row.operator,
        words.said(row.stage),
        f"{row.calls:,}",
        units.format_flops(row.flops) if row.flops else "-",
        units.format_bytes(row.bytes),
        "-" if row.flops_per_byte is None else f"{row.flops_per_byte:.1f}",
        words.said(row.bound),
        units.format_seconds(row.time_s),
        Cell(text=units.format_percent(row.time_s / whole_s), bar=row.time_s / longest_s if longest_s else 0.0),
    ]
