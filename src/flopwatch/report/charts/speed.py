"""Speed: tokens a second and MFU of every step that was timed, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from flopwatch.record import BenchResult
from flopwatch.report.charts.chart import Chart, chart, figure, hover, safe, ticks
from flopwatch.report.content.figures import PEAK_KINDS
from flopwatch.report.messages import Words


def tokens(benches: Sequence[BenchResult], words: Words) -> list[Chart]:
    """Tokens a second, a bar a model and phase, with the spread of the samples."""
    traces = []
    for role, phase in enumerate(_phases(benches)):
        chosen = [bench for bench in benches if bench.phase == phase]
        n_tokens = [bench.tokens_per_s * bench.step_s.median for bench in chosen]
        spread = {
            "type": "data",
            "symmetric": False,
            "array": [n / b.step_s.p10 - b.tokens_per_s for n, b in zip(n_tokens, chosen, strict=True)],
            "arrayminus": [b.tokens_per_s - n / b.step_s.p90 for n, b in zip(n_tokens, chosen, strict=True)],
        }
        traces.append(
            {
                "type": "bar",
                "name": words(f"phase.{phase}"),
                "meta": {"role": role},
                "x": [safe(bench.model) for bench in chosen],
                "y": [bench.tokens_per_s for bench in chosen],
                "error_y": spread,
                "customdata": [f"{b.batch} x {b.seq_len}" for b in chosen],
                "hovertemplate": hover(
                    "%{x}, %{fullData.name}", words("tokens_per_s", rate="%{y:,.4g}"), "%{customdata}"
                ),
            }
        )
    layout = {
        "barmode": "group",
        "yaxis": {"title": {"text": words("chart.tokens")}, "rangemode": "tozero"},
        "xaxis": {"type": "category", **ticks(bench.model for bench in benches)},
        "height": 360,
    }
    return [chart("speed", words, [("", figure(traces, layout))])] if traces else []


def utilization(benches: Sequence[BenchResult], words: Words) -> list[Chart]:
    """MFU, a bar a model, phase and denominator; an unknown denominator has no bar."""
    traces: list[dict[str, Any]] = []
    for phase in _phases(benches):
        for kind in PEAK_KINDS:
            rows = [
                (bench, row)
                for bench in benches
                if bench.phase == phase
                for row in bench.utilization
                if row.name == "mfu" and row.peak_kind == kind and row.fraction is not None
            ]
            if not rows:
                continue
            traces.append(
                {
                    "type": "bar",
                    "name": words("chart.of_kind", phase=words(f"phase.{phase}"), kind=words(f"kind.{kind}")),
                    "meta": {"role": len(traces)},
                    "x": [safe(bench.model) for bench, _ in rows],
                    "y": [100 * row.fraction for _, row in rows if row.fraction is not None],
                    "customdata": [safe(row.peak_source or "") for _, row in rows],
                    "hovertemplate": hover(
                        "%{x}, %{fullData.name}", words("chart.share_of", share="%{y:.1f} %", peak="%{customdata}")
                    ),
                }
            )
    layout = {
        "barmode": "group",
        "yaxis": {"title": {"text": words("chart.mfu")}, "rangemode": "tozero", "ticksuffix": " %"},
        "xaxis": {"type": "category", **ticks(bench.model for bench in benches)},
        "height": 360,
    }
    return [chart("utilization", words, [("", figure(traces, layout))])] if traces else []


def _phases(benches: Iterable[BenchResult]) -> list[str]:
    return list(dict.fromkeys(bench.phase for bench in benches))
