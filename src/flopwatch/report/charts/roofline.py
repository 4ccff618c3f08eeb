"""Rooflines: what a device can reach at each intensity, and where the operators of a step stand under it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from flopwatch import units
from flopwatch.record import BenchResult, RooflineResult, RooflineRow, RoofRow
from flopwatch.report.charts.chart import Chart, Figure, chart, figure, hover, safe, step_label
from flopwatch.report.messages import Words

_BOUNDS: Final = {"compute": 0, "memory": 1}  # bound -> colour
_ROOF_ROLE: Final = 2
_STEP_ROLE: Final = 4
_MOST_LABELS: Final = 5
_LABELS_APART: Final = 0.25  # decades
_MARKER: Final = (8.0, 26.0)  # smallest and largest, in pixels


def rooflines(results: Sequence[RooflineResult], benches: Sequence[BenchResult], words: Words) -> list[Chart]:
    """A log-log roofline of each step; where the step was timed, what it reached as a whole stands below."""
    views = [
        (step_label(result.model, result.phase, words, batch=result.batch), _figure(result, benches, words))
        for result in results
        if any(row.flops for row in result.operators)
    ]
    return [chart("roofline", words, views)] if views else []


def roofs_of(result: RooflineResult) -> list[RoofRow]:
    """The roof that the times are of first, then the others."""
    own = RoofRow(
        kind=result.peak_kind,
        flops_per_s=result.peak_flops_per_s,
        bandwidth_bytes_per_s=result.bandwidth_bytes_per_s,
        source=result.peak_source,
    )
    return [own, *result.other_roofs]


def _figure(result: RooflineResult, benches: Sequence[BenchResult], words: Words) -> Figure:
    placed = [(row, row.flops_per_byte) for row in result.operators if row.flops and row.flops_per_byte]
    roofs = roofs_of(result)
    intensities = [intensity for _, intensity in placed]
    ridges = [roof.flops_per_s / roof.bandwidth_bytes_per_s for roof in roofs]
    span = (min(*intensities, *ridges) / 3, max(*intensities, *ridges) * 3)
    traces = [_roof(roof, index, span, words) for index, roof in enumerate(roofs)]
    for bound in _BOUNDS:
        chosen = [(row, intensity) for row, intensity in placed if row.bound == bound]
        if chosen:
            traces.append(_operators(result, chosen, bound, words))
    traces += [_step(result, bench, words) for bench in benches if _is_step(result, bench)]
    layout = {
        "xaxis": {"title": {"text": words("chart.intensity")}, **_log_axis(*span)},
        "yaxis": {"title": {"text": words("chart.rate")}, **_log_axis(*_rates(traces))},
        "height": 470,
    }
    return figure(traces, layout)


def _roof(roof: RoofRow, index: int, span: tuple[float, float], words: Words) -> dict[str, Any]:
    """The line min(peak, intensity x bandwidth) through its ridge."""
    ridge = roof.flops_per_s / roof.bandwidth_bytes_per_s
    xs = [span[0], ridge, span[1]]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": words(
            "chart.roof",
            kind=words(f"kind.{roof.kind}"),
            peak=units.format_rate(roof.flops_per_s),
            bandwidth=units.format_bandwidth(roof.bandwidth_bytes_per_s),
        ),
        "meta": {"role": _ROOF_ROLE + index},
        "line": {"width": 2, "dash": "solid" if index == 0 else "dash"},
        "x": xs,
        "y": [min(roof.flops_per_s, x * roof.bandwidth_bytes_per_s) for x in xs],
        "customdata": [safe(roof.source)] * 3,
        "hovertemplate": hover("%{fullData.name}", "%{customdata}"),
    }


def _operators(
    result: RooflineResult, chosen: Sequence[tuple[RooflineRow, float]], bound: str, words: Words
) -> dict[str, Any]:
    """Operators that one thing binds, each at its intensity and at the rate that the roof lets it have."""
    labelled = _labelled(result.operators)
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": words(f"chart.bound_{bound}"),
        "meta": {"role": _BOUNDS[bound]},
        "marker": {"size": [_size(row.time_s / result.time_s) for row, _ in chosen], "opacity": 0.8},
        "x": [intensity for _, intensity in chosen],
        "y": [row.flops / row.time_s for row, _ in chosen],
        "text": [safe(row.operator.removeprefix("layers.")) if id(row) in labelled else "" for row, _ in chosen],
        "textposition": "bottom center",
        "customdata": [
            [
                safe(f"{row.operator}, {words.said(row.stage)}"),
                f"{row.flops:,}",
                f"{row.bytes:,}",
                units.format_seconds(row.time_s),
                units.format_percent(row.time_s / result.time_s),
            ]
            for row, _ in chosen
        ],
        "hovertemplate": hover(
            "%{customdata[0]}",
            "%{customdata[1]} FLOPs / %{customdata[2]} B = %{x:.4g} FLOPs/B",
            "%{y:.4s}FLOP/s; %{customdata[3]} (%{customdata[4]})",
        ),
    }


def _size(time_fraction: float) -> float:
    """The marker's width in pixels: its area grows with the operator's share of the time."""
    least, most = _MARKER
    return round(max(least, most * math.sqrt(time_fraction)), 1)


def _labelled(rows: Sequence[RooflineRow]) -> set[int]:
    """The operators that take longest and stand far enough apart for their names to be read."""
    taken: list[float] = []
    chosen = set()
    for row in sorted(rows, key=lambda row: -row.time_s):
        if not row.flops or not row.flops_per_byte or len(taken) == _MOST_LABELS:
            continue
        place = math.log10(row.flops_per_byte)
        if all(abs(place - other) > _LABELS_APART for other in taken):
            taken.append(place)
            chosen.add(id(row))
    return chosen


def _is_step(result: RooflineResult, bench: BenchResult) -> bool:
    """Whether the benchmark timed the step that the roofline is of."""
    mine = (result.model, result.phase, result.batch, result.seq_len, result.dtype)
    return mine == (bench.model, bench.phase, bench.batch, bench.seq_len, bench.dtype)


def _step(result: RooflineResult, bench: BenchResult, words: Words) -> dict[str, Any]:
    """The whole step as it was measured: all its FLOPs over all its bytes, at the rate that it reached."""
    n_bytes = sum(row.bytes for row in result.operators)
    flops = sum(row.flops for row in result.operators)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": words("chart.step_measured"),
        "meta": {"role": _STEP_ROLE},
        "marker": {"symbol": "star", "size": 17},
        "x": [flops / n_bytes],
        "y": [flops / bench.step_s.median],
        "customdata": [[f"{flops:,}", f"{n_bytes:,}", units.format_seconds(bench.step_s.median)]],
        "hovertemplate": hover(
            "%{fullData.name}",
            "%{customdata[0]} FLOPs / %{customdata[1]} B = %{x:.4g} FLOPs/B",
            "%{y:.4s}FLOP/s; %{customdata[2]}",
        ),
    }


def _rates(traces: Sequence[dict[str, Any]]) -> tuple[float, float]:
    rates = [rate for trace in traces for rate in trace["y"]]
    return min(rates) / 2, max(rates) * 2


def _log_axis(low: float, high: float) -> dict[str, Any]:
    return {"type": "log", "range": [math.log10(low), math.log10(high)], "dtick": 1, "exponentformat": "SI"}
