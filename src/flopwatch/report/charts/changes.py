"""Changes as bars with the interval that they lie in: between two records, or by one choice at a time; and gaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from flopwatch.record import BenchResult, ChangeRow, ChoiceRow, CompareResult, GapSplit
from flopwatch.report.charts.chart import Chart, Figure, chart, figure, hover, safe, short, step_label
from flopwatch.report.messages import Words

_BEYOND, _WITHIN, _UNKNOWN = 0, 5, 6  # colours
_LABEL_CHARACTERS: Final = 34
_ROW_HEIGHT: Final = 30

_Bar = tuple[str, float, Sequence[float] | None, int]
"""(name, change, its interval, colour)"""


def changes(results: Sequence[CompareResult], words: Words) -> list[Chart]:
    """Every figure that changed, in percent of what it was before."""
    views = []
    for result in results:
        rows = [row for row in result.changes if row.change_fraction]
        if rows:
            label = result.model if result.phase is None else step_label(result.model, result.phase, words)
            views.append((f"{label}: {result.what}", _changes(rows, words)))
    return [chart("changes", words, views)] if views else []


def _changes(rows: Sequence[ChangeRow], words: Words) -> Figure:
    bars = [
        (row.figure, row.change_fraction, row.interval_fraction, _role(row))
        for row in rows
        if row.change_fraction is not None
    ]
    return _figure(bars, words("chart.change"))


def _role(row: ChangeRow) -> int:
    """The colour of a change: whether it is more than noise. An exact figure that differs always is."""
    if row.is_exact:
        return _BEYOND
    return {True: _BEYOND, False: _WITHIN, None: _UNKNOWN}[row.beyond_noise]


def choices(benches: Sequence[BenchResult], words: Words) -> list[Chart]:
    """What each choice buys in tokens/s against the base."""
    views = [
        (step_label(bench.model, bench.phase, words, batch=bench.batch), _choices(bench.choices, words))
        for bench in benches
        if any(row.change_fraction is not None for row in bench.choices)
    ]
    return [chart("choices", words, views)] if views else []


def _choices(rows: Sequence[ChoiceRow], words: Words) -> Figure:
    bars = [
        (
            f"{row.choice} {row.value}",
            row.change_fraction,
            row.interval_fraction,
            _WITHIN if row.pays is None else _BEYOND,
        )
        for row in rows
        if row.change_fraction is not None
    ]
    return _figure(bars, words("chart.choice_change"))


def _figure(bars: Sequence[_Bar], title: str) -> Figure:
    trace: dict[str, Any] = {
        "type": "bar",
        "orientation": "h",
        "showlegend": False,
        "meta": {"roles": [role for *_, role in bars]},
        "y": [safe(name) for name, *_ in bars],
        "x": [100 * change for _, change, _, _ in bars],
        "customdata": [_interval_text(interval) for _, _, interval, _ in bars],
        "hovertemplate": hover("%{y}: %{x:+.2f} %", "%{customdata}"),
    }
    if any(interval for _, _, interval, _ in bars):
        trace["error_x"] = {
            "type": "data",
            "symmetric": False,
            "array": [100 * (interval[1] - change) if interval else 0 for _, change, interval, _ in bars],
            "arrayminus": [100 * (change - interval[0]) if interval else 0 for _, change, interval, _ in bars],
        }
    names = [name for name, *_ in bars]
    layout = {
        "xaxis": {"title": {"text": title}, "ticksuffix": " %", "zeroline": True},
        "yaxis": {
            "type": "category",
            "autorange": "reversed",
            "tickvals": [safe(name) for name in names],
            "ticktext": [short(name, _LABEL_CHARACTERS) for name in names],
        },
        "height": 120 + _ROW_HEIGHT * len(bars),
    }
    return figure([trace], layout)


def _interval_text(interval: Sequence[float] | None) -> str:
    return f"{100 * interval[0]:+.2f} % … {100 * interval[1]:+.2f} %" if interval else ""


def gaps(benches: Sequence[BenchResult], words: Words) -> list[Chart]:
    """What each part of a step took beside what it takes at best, where it was asked why."""
    views = [
        (step_label(bench.model, bench.phase, words, batch=bench.batch), _gap(bench.gap, words))
        for bench in benches
        if bench.gap is not None
    ]
    return [chart("gap", words, views)] if views else []


def _gap(gap: GapSplit, words: Words) -> Figure:
    names = [words(f"gap.{part.name}") for part in gap.parts]
    series = {
        "col.took": [part.measured_s for part in gap.parts],
        "col.least": [part.roofline_s for part in gap.parts],
    }
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": words(key),
            "meta": {"role": role},
            "y": [safe(name) for name in names],
            "x": [1e3 * time_s for time_s in times_s],
            "hovertemplate": hover("%{y}, %{fullData.name}", f"%{{x:.4g}} {words('chart.milliseconds')}"),
        }
        for role, (key, times_s) in enumerate(series.items())
    ]
    layout = {
        "barmode": "group",
        "xaxis": {"title": {"text": words("chart.milliseconds")}},
        "yaxis": {"type": "category", "autorange": "reversed"},
        "legend": {"traceorder": "normal"},
        "height": 130 + 2 * _ROW_HEIGHT * len(names),
    }
    return figure(traces, layout)
