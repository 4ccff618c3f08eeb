"""Tokens a second, MFU and peak memory against the batch, above one another over one axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from flopwatch.record import BenchResult, FitResult
from flopwatch.report.charts.chart import GIB, Chart, batch_axis, batch_hover, chart, figure, safe, step_label
from flopwatch.report.content.figures import PEAK_KINDS
from flopwatch.report.messages import Words

_DOMAINS: Final = ([0.70, 1.0], [0.37, 0.63], [0.0, 0.30])  # tokens/s above MFU above memory


class _Point(msgspec.Struct, frozen=True, kw_only=True):
    """One batch of one step; what was not measured at it is None."""

    batch: int
    tokens_per_s: float | None = None
    interval: Sequence[float] | None = None
    mfu: float | None = None
    mfu_kind: str | None = None
    peak_bytes: int | None = None


def curve(fits: Sequence[FitResult], benches: Sequence[BenchResult], words: Words) -> list[Chart]:
    """Every batch that was timed, and of the searches' tries the memory; nothing where no step was timed."""
    series: dict[str, list[_Point]] = {}
    for bench in benches:
        series.setdefault(step_label(bench.model, bench.phase, words), []).extend(_timed(bench))
    for fit in fits:
        tried = [_Point(batch=p.batch, peak_bytes=p.peak_bytes) for p in fit.probes if p.peak_bytes is not None]
        label = step_label(fit.model, fit.phase, words)
        if label in series:
            series[label] += tried
    points = [point for each in series.values() for point in each]
    if not points:
        return []
    kinds = [kind for kind in PEAK_KINDS if any(point.mfu_kind == kind for point in points)]
    kinds_text = words("list.items").join(words(f"kind.{kind}") for kind in kinds)
    layout = {
        "xaxis": {**batch_axis([point.batch for point in points], words), "anchor": "y3"},
        "yaxis": {"title": {"text": words("chart.tokens")}, "rangemode": "tozero", "domain": _DOMAINS[0]},
        "yaxis2": {
            "title": {"text": words("chart.mfu_kinds", kinds=kinds_text) if kinds else words("chart.mfu")},
            "rangemode": "tozero",
            "ticksuffix": " %",
            "domain": _DOMAINS[1],
        },
        "yaxis3": {"title": {"text": words("chart.gib")}, "rangemode": "tozero", "domain": _DOMAINS[2]},
        "height": 560,
    }
    traces = [t for role, (name, each) in enumerate(series.items()) for t in _traces(safe(name), each, role, words)]
    return [chart("batch_curve", words, [("", figure(traces, layout))])]


def _timed(bench: BenchResult) -> Iterator[_Point]:
    """The curve of a search for the best batch, or else the one batch that was timed."""
    if bench.batch_search is not None:
        for point in bench.batch_search.curve:
            yield _Point(
                batch=point.batch,
                tokens_per_s=point.tokens_per_s,
                interval=point.tokens_per_s_interval,
                mfu=point.mfu,
                mfu_kind=point.mfu_peak_kind,
                peak_bytes=point.peak_memory_bytes,
            )
        return
    known = [row for row in bench.utilization if row.name == "mfu" and row.fraction is not None]
    row = min(known, key=lambda row: PEAK_KINDS.index(row.peak_kind), default=None)
    yield _Point(
        batch=bench.batch,
        tokens_per_s=bench.tokens_per_s,
        mfu=None if row is None else row.fraction,
        mfu_kind=None if row is None else row.peak_kind,
        peak_bytes=bench.peak_memory_bytes,
    )


def _traces(name: str, points: Sequence[_Point], role: int, words: Words) -> Iterator[dict[str, Any]]:
    """The three lines of one step, one legend entry for them."""
    points = sorted(points, key=lambda point: point.batch)
    common = {"type": "scatter", "mode": "lines+markers", "name": name, "legendgroup": name, "marker": {"size": 8}}
    fast = [(point, point.tokens_per_s) for point in points if point.tokens_per_s is not None]
    used = [(point, point.mfu) for point in points if point.mfu is not None]
    held = [(point, point.peak_bytes) for point in points if point.peak_bytes is not None]
    if fast:
        trace = {
            **common,
            "meta": {"role": role},
            "x": [point.batch for point, _ in fast],
            "y": [rate for _, rate in fast],
            "hovertemplate": batch_hover(words("tokens_per_s", rate="%{y:,.5g}"), words),
        }
        yield trace | ({"error_y": _interval(fast)} if any(point.interval for point, _ in fast) else {})
    if used:
        yield {
            **common,
            "meta": {"role": role},
            "showlegend": False,
            "yaxis": "y2",
            "x": [point.batch for point, _ in used],
            "y": [100 * fraction for _, fraction in used],
            "customdata": [words(f"kind.{point.mfu_kind}") for point, _ in used],
            "hovertemplate": batch_hover("MFU %{y:.1f} % (%{customdata})", words),
        }
    if held:
        yield {
            **common,
            "meta": {"role": role},
            "showlegend": not fast,
            "yaxis": "y3",
            "x": [point.batch for point, _ in held],
            "y": [n_bytes / GIB for _, n_bytes in held],
            "customdata": [f"{n_bytes:,}" for _, n_bytes in held],
            "hovertemplate": batch_hover("%{y:.3f} GiB (%{customdata} B)", words),
        }


def _interval(fast: Sequence[tuple[_Point, float]]) -> dict[str, Any]:
    """The interval of the median as whiskers."""
    bounds = [point.interval or (rate, rate) for point, rate in fast]
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - rate for (_, high), (_, rate) in zip(bounds, fast, strict=True)],
        "arrayminus": [rate - low for (low, _), (_, rate) in zip(bounds, fast, strict=True)],
    }
