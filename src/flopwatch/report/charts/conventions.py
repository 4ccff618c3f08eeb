"""The same step under every convention: how far apart the FLOPs are, and with them the MFU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flopwatch import units
from flopwatch.record import ConventionRow, CountResult, MfuResult, ReportResult
from flopwatch.report.charts.chart import Chart, Figure, chart, figure, hover, safe, step_label
from flopwatch.report.content.figures import PEAK_KINDS
from flopwatch.report.messages import Words

_ROW_HEIGHT = 21


def of_results(results: Sequence[ReportResult], words: Words) -> list[Chart]:
    """FLOPs of each step that was timed, and its MFU of the best known peak, under each convention."""
    groups: dict[str, list[ConventionRow]] = {}
    for result in results:
        for row in result.conventions:
            groups.setdefault(step_label(result.model, row.phase, words, batch=row.batch), []).append(row)
    views = [
        (
            label,
            _bars(
                words("chart.flops"),
                {row.convention: row.model_flops for row in rows},
                {row.convention: _share_text(row.mfu, words) for row in rows},
                unit="FLOPs",
            ),
        )
        for label, rows in groups.items()
    ]
    return [chart("conventions", words, views)] if views else []


def of_counts(results: Sequence[CountResult], words: Words) -> list[Chart]:
    """FLOPs of each model under each convention, where it was counted under several."""
    groups: dict[str, list[CountResult]] = {}
    for result in results:
        groups.setdefault(step_label(result.model, result.phase, words, batch=result.batch), []).append(result)
    views = [
        (label, _bars(words("chart.flops"), {row.convention: row.flops.total for row in rows}, {}, unit="FLOPs"))
        for label, rows in groups.items()
        if len({row.convention for row in rows}) > 1
    ]
    return [chart("conventions", words, views, caption=words("chart.conventions_counted"))] if views else []


def of_runs(results: Sequence[MfuResult], words: Words) -> list[Chart]:
    """MFU of one run under each convention, where there are several."""
    shares = {result.convention: 100 * result.mfu for result in results if result.mfu is not None}
    if len(shares) < 2:
        return []
    peaks = {result.convention: safe(result.peak_source or "") for result in results}
    view = _bars(words("chart.mfu"), shares, peaks, unit="%")
    return [chart("conventions", words, [("", view)], caption=words("chart.conventions_runs"))]


def _share_text(mfu: Mapping[str, float], words: Words) -> str:
    """MFU of the first known kind of peak, empty where none is known."""
    kind = next((kind for kind in PEAK_KINDS if kind in mfu), None)
    if kind is None:
        return ""
    return words("chart.mfu_of", percent=units.format_percent(mfu[kind]), kind=words(f"kind.{kind}"))


def _bars(title: str, amounts: Mapping[str, float], beside: Mapping[str, str], *, unit: str) -> Figure:
    """One bar a convention, the largest at the top, with the exact amount and what stands beside it on hover."""
    names = sorted(amounts, key=lambda name: -amounts[name])
    most = max(amounts.values())
    exact = [f"{n:,}" if isinstance(n, int) else f"{n:.2f}" for n in (amounts[name] for name in names)]
    trace: dict[str, Any] = {
        "type": "bar",
        "orientation": "h",
        "showlegend": False,
        "meta": {"role": 0},
        "y": [safe(name) for name in names],
        "x": [amounts[name] for name in names],
        "text": [beside.get(name, "") for name in names],
        "textposition": "inside",
        "insidetextanchor": "start",
        "customdata": exact,
        "hovertemplate": hover(f"%{{y}}: %{{customdata}} {unit}", "%{text}"),
    }
    layout = {
        "xaxis": {"title": {"text": title}, "range": [0, 1.03 * most]},
        "yaxis": {"type": "category", "autorange": "reversed", "tickmode": "linear", "dtick": 1},
        "height": 110 + _ROW_HEIGHT * len(names),
    }
    return figure([trace], layout)
