"""What a report shows beside its measurements: how fast each step could be, and each step under every convention."""

from __future__ import annotations

from collections.abc import Sequence

from flopwatch import units
from flopwatch.record import BenchResult, ConventionRow, ReportResult, RooflineResult
from flopwatch.report.charts.chart import step_label
from flopwatch.report.document import Block, Cell, Column, Note, Table
from flopwatch.report.messages import Words


def roofline_table(results: Sequence[ReportResult], words: Words) -> list[Block]:
    """One row a step that was timed: the least time that the first roof allows beside the time that it took."""
    rows = [_step(line, result.benches, words) for result in results for line in result.rooflines]
    if not rows:
        return []
    roofs = dict.fromkeys(
        words("report.roof", device=line.device, peak=line.peak_source, bandwidth=line.bandwidth_source)
        for result in results
        for line in result.rooflines
    )
    return [
        Table(
            columns=[
                Column(name=words("col.model"), is_number=False),
                Column(name=words("col.phase"), is_number=False),
                Column(name=words("col.size")),
                Column(name=words("col.least")),
                Column(name=words("col.took")),
                Column(name=words("col.highest_mfu")),
                Column(name=words("col.compute_bound"), rank=1),
            ],
            rows=rows,
        ),
        *(Note(text=text, style="dim") for text in roofs),
    ]


def _step(line: RooflineResult, benches: Sequence[BenchResult], words: Words) -> list[Cell | str]:
    bench = next((b for b in benches if (b.phase, b.batch) == (line.phase, line.batch)), None)
    return [
        Cell(text=line.model, style="strong"),
        words(f"phase.{line.phase}"),
        f"{line.batch} x {line.seq_len}",
        units.format_seconds(line.time_s),
        words("na") if bench is None else units.format_seconds(bench.step_s.median),
        units.format_percent(line.highest_mfu),
        units.format_percent(line.compute_bound_fraction),
    ]


def convention_tables(results: Sequence[ReportResult], words: Words) -> list[tuple[str, Sequence[Block]]]:
    """FLOPs and MFU of each step that was timed under every convention, each step under a title of its own."""
    folded: list[tuple[str, Sequence[Block]]] = []
    for result in results:
        groups: dict[tuple[str, int], list[ConventionRow]] = {}
        for row in result.conventions:
            groups.setdefault((row.phase, row.batch), []).append(row)
        for (phase, batch), rows in groups.items():
            title = words("page.conventions_of", step=step_label(result.model, phase, words, batch=batch))
            folded.append((title, [_under_each(rows, words)]))
    return folded


def _under_each(rows: Sequence[ConventionRow], words: Words) -> Table:
    kinds = list(dict.fromkeys(kind for row in rows for kind in row.mfu))
    has_more = any(row.hardware_flops != row.model_flops for row in rows)
    hardware = [Column(name=words("col.hardware_flops"), rank=1)] if has_more else []
    return Table(
        columns=[
            Column(name=words("col.convention"), is_number=False),
            Column(name=words("col.formula"), is_number=False, rank=2),
            Column(name=words("col.flops")),
            *hardware,
            *(Column(name=words("col.mfu_of", kind=words(f"kind.{kind}"))) for kind in kinds),
        ],
        rows=[
            [
                Cell(text=row.convention, style="strong"),
                row.formula,
                f"{row.model_flops:,}",
                *([f"{row.hardware_flops:,}"] if has_more else []),
                *(units.format_percent(row.mfu[kind]) if kind in row.mfu else words("na") for kind in kinds),
            ]
            for row in rows
        ],
        note=words("report.conventions_note", step=units.format_seconds(rows[0].step_s)),
    )
