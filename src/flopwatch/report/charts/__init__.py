"""The charts of a record as plotly figures in plain data: every point is a figure of the record. One file a subject."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flopwatch.record import Record, ReportResult
from flopwatch.report.charts import batch, changes, conventions, fit, memory, roofline, speed, work
from flopwatch.report.charts.chart import Chart
from flopwatch.report.messages import Words

__all__ = ["Chart", "charts_of"]


def charts_of(record: Record, words: Words) -> list[Chart]:
    """The charts that the record has data for, in the order of the page."""
    results: Sequence[Any] = record.typed_results()
    match record.kind:
        case "report":
            return _report(results, words)
        case "count":
            return [*conventions.of_counts(results, words), *work.kinds(results, words), *work.modules(results, words)]
        case "memory":
            return [*memory.predicted(results, words), *memory.timeline(results, words)]
        case "fit":
            return [*fit.probes(results, words), *memory.beside_measured(results, [], words)]
        case "bench":
            return _bench(results, words)
        case "roofline":
            return roofline.rooflines(results, [], words)
        case "mfu":
            return conventions.of_runs(results, words)
        case "compare":
            return changes.changes(results, words)
        case _:
            return []


def _report(results: Sequence[ReportResult], words: Words) -> list[Chart]:
    counts = [count for result in results for count in result.counts if count.phase == "train"]
    counts = counts or [count for result in results for count in result.counts]
    fits = [item for result in results for item in result.fits]
    benches = [item for result in results for item in result.benches]
    return [
        *work.kinds(counts, words),
        *work.modules(counts, words),
        *fit.probes(fits, words),
        *memory.beside_measured(fits, benches, words),
        *speed.tokens(benches, words),
        *speed.utilization(benches, words),
        *batch.curve(fits, benches, words),
        *roofline.rooflines([item for result in results for item in result.rooflines], benches, words),
        *conventions.of_results(results, words),
    ]


def _bench(results: Sequence[Any], words: Words) -> list[Chart]:
    several = [*speed.tokens(results, words), *speed.utilization(results, words)] if len(results) > 1 else []
    return [
        *several,
        *batch.curve([], [item for item in results if item.batch_search is not None], words),
        *changes.choices(results, words),
        *changes.gaps(results, words),
        *memory.beside_measured([], results, words),
    ]
