"""The tries of the searches: measured peak memory against batch, and where they stopped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flopwatch.record import FitResult
from flopwatch.report.charts.chart import GIB, Chart, batch_axis, batch_hover, chart, figure, safe, step_label
from flopwatch.report.messages import Words


def probes(fits: Sequence[FitResult], words: Words) -> list[Chart]:
    """Peak memory of every try against its batch; those that ran out stand at the limit."""
    fits = [fit for fit in fits if fit.probes]
    if not fits:
        return []
    traces = [trace for role, fit in enumerate(fits) for trace in _tries(fit, role, words)]
    limits = sorted({fit.limit_bytes for fit in fits})
    layout = {
        "xaxis": batch_axis([probe.batch for fit in fits for probe in fit.probes], words),
        "yaxis": {"title": {"text": words("chart.peak")}, "rangemode": "tozero"},
        "shapes": [_limit_line(limit / GIB) for limit in limits],
        "annotations": [_limit_label(limit / GIB, words) for limit in limits],
        "height": 380,
    }
    return [chart("probes", words, [("", figure(traces, layout))])]


def _tries(fit: FitResult, role: int, words: Words) -> list[dict[str, Any]]:
    """What ran as a line, what did not as crosses of the same colour."""
    name = safe(step_label(fit.model, fit.phase, words))
    ran = sorted((p.batch, p.peak_bytes) for p in fit.probes if p.outcome == "ok" and p.peak_bytes is not None)
    failed = [probe for probe in fit.probes if probe.outcome != "ok"]
    common = {"type": "scatter", "name": name, "legendgroup": name, "meta": {"role": role}}
    traces: list[dict[str, Any]] = []
    if ran:
        traces.append(
            {
                **common,
                "mode": "lines+markers",
                "marker": {"size": 9},
                "x": [batch for batch, _ in ran],
                "y": [peak / GIB for _, peak in ran],
                "customdata": [f"{peak:,}" for _, peak in ran],
                "hovertemplate": batch_hover("%{y:.3f} GiB (%{customdata} B)", words),
            }
        )
    if failed:
        traces.append(
            {
                **common,
                "mode": "markers",
                "showlegend": not ran,
                "marker": {"size": 11, "symbol": "x-thin", "line": {"width": 3}},
                "x": [probe.batch for probe in failed],
                "y": [fit.limit_bytes / GIB for _ in failed],
                "customdata": [words(f"outcome.{probe.outcome}") for probe in failed],
                "hovertemplate": batch_hover("%{customdata}", words),
            }
        )
    return traces


def _limit_line(limit_gib: float) -> dict[str, Any]:
    line = {"dash": "dash", "width": 1.5}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": limit_gib, "y1": limit_gib, "line": line}


def _limit_label(limit_gib: float, words: Words) -> dict[str, Any]:
    text = words("chart.limit", limit=f"{limit_gib:.4g} GiB")
    place = {"xref": "paper", "x": 0, "xanchor": "left", "yanchor": "bottom"}
    return {"text": text, "y": limit_gib, "showarrow": False, **place}
