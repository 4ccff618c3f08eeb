"""The charts of a report as plotly figures in plain data: every point is a figure of the record.

Names are escaped, because plotly reads markup in the texts that it draws. A trace's `meta.role` is the number of its
colour, which the page takes from its style sheet so that light, dark and print each have their own.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from flopwatch.record import BenchResult, CountResult, FitResult, ReportResult
from flopwatch.report.messages import Words

_GIB: Final = 1 << 30
_GROUPS: Final = (
    ("attention_weights", ("layers.attention.",)),
    ("ffn", ("layers.ffn.",)),
    ("experts", ("layers.moe.", "layers.shared.")),
    ("head", ("head",)),
)
_SCORES: Final = (".attention.scores", ".attention.values")
_LABEL_CHARACTERS: Final = 28


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """One chart: its title and what it says in words, for those who cannot see it, and the figure."""

    id: str
    title: str
    caption: str
    figure: dict[str, Any]


def charts_of(results: Sequence[ReportResult], words: Words) -> list[Chart]:
    """The charts that the results have data for."""
    counts = [count for result in results for count in result.counts if count.phase == "train"]
    counts = counts or [count for result in results for count in result.counts]
    fits = [fit for result in results for fit in result.fits if fit.probes]
    benches = [bench for result in results for bench in result.benches]
    charts = [_work(counts, words)] if counts else []
    charts += [_probes(fits, words)] if fits else []
    return charts + ([_speed(benches, words), _utilization(benches, words)] if benches else [])


def part_group(part: str) -> str:
    """The kind of work that a part of a count is: the key of its message."""
    if part.endswith(_SCORES):
        return "attention_scores"
    return next((group for group, starts in _GROUPS if part.startswith(starts)), "other")


def _work(counts: Sequence[CountResult], words: Words) -> Chart:
    """Shares of the FLOPs of each model by kind of work, a bar a model."""
    order = ["attention_weights", "attention_scores", "ffn", "experts", "head", "other"]
    models = [safe(count.model) for count in counts]
    sums = [_grouped(count) for count in counts]
    traces = []
    for role, group in enumerate(order):
        flops = [amounts.get(group, 0) for amounts in sums]
        if any(flops):
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": words(f"group.{group}"),
                    "meta": {"role": role},
                    "y": models,
                    "x": [100 * n / sum(amounts.values()) for n, amounts in zip(flops, sums, strict=True)],
                    "customdata": [f"{n:,}" for n in flops],
                    "hovertemplate": "%{y}<br>%{fullData.name}: %{customdata} FLOPs (%{x:.1f} %)<extra></extra>",
                }
            )
    layout = {
        "barmode": "stack",
        "xaxis": {"title": {"text": words("chart.share")}, "range": [0, 100], "ticksuffix": " %"},
        "yaxis": {"type": "category", "autorange": "reversed", **_ticks(counts)},
        "legend": {"traceorder": "normal"},
        "height": 170 + 38 * len(counts),
    }
    phase = words(f"phase.{counts[0].phase}")
    return _chart("work", words, traces, layout, caption=words("chart.work_caption", phase=phase))


def _grouped(count: CountResult) -> dict[str, int]:
    amounts: dict[str, int] = {}
    for part, flops in count.flops.parts.items():
        amounts[part_group(part)] = amounts.get(part_group(part), 0) + flops
    return amounts


def _probes(fits: Sequence[FitResult], words: Words) -> Chart:
    """Peak memory of every try against its batch; those that ran out stand at the limit."""
    traces: list[dict[str, Any]] = []
    for role, fit in enumerate(fits):
        name = f"{safe(fit.model)}, {words(f'phase.{fit.phase}').lower()}"
        ran = sorted((p.batch, p.peak_bytes) for p in fit.probes if p.outcome == "ok" and p.peak_bytes is not None)
        failed = [probe for probe in fit.probes if probe.outcome != "ok"]
        if ran:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": name,
                    "legendgroup": name,
                    "meta": {"role": role},
                    "marker": {"size": 9},
                    "x": [batch for batch, _ in ran],
                    "y": [peak / _GIB for _, peak in ran],
                    "hovertemplate": "%{fullData.name}<br>batch %{x}: %{y:.3f} GiB<extra></extra>",
                }
            )
        if failed:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "legendgroup": name,
                    "showlegend": not ran,
                    "meta": {"role": role},
                    "marker": {"size": 11, "symbol": "x-thin", "line": {"width": 3}},
                    "x": [probe.batch for probe in failed],
                    "y": [fit.limit_bytes / _GIB for _ in failed],
                    "customdata": [words(f"outcome.{probe.outcome}") for probe in failed],
                    "hovertemplate": "%{fullData.name}<br>batch %{x} %{customdata}<extra></extra>",
                }
            )
    batches = [probe.batch for fit in fits for probe in fit.probes]
    ticks = [1 << n for n in range(min(batches).bit_length() - 1, max(batches).bit_length() + 1)]
    limits = sorted({fit.limit_bytes for fit in fits})
    layout = {
        "xaxis": {"title": {"text": words("chart.batch")}, "type": "log", "tickvals": ticks},
        "yaxis": {"title": {"text": words("chart.peak")}, "rangemode": "tozero"},
        "shapes": [_limit_line(limit / _GIB) for limit in limits],
        "annotations": [_limit_label(limit / _GIB, words) for limit in limits],
        "height": 380,
    }
    return _chart("probes", words, traces, layout, caption=words("chart.probes_caption"))


def _limit_line(limit_gib: float) -> dict[str, Any]:
    line = {"dash": "dash", "width": 1.5}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": limit_gib, "y1": limit_gib, "line": line}


def _limit_label(limit_gib: float, words: Words) -> dict[str, Any]:
    text = words("chart.limit", limit=f"{limit_gib:.4g} GiB")
    place = {"xref": "paper", "x": 0, "xanchor": "left", "yanchor": "bottom"}
    return {"text": text, "y": limit_gib, "showarrow": False, **place}


def _speed(benches: Sequence[BenchResult], words: Words) -> Chart:
    """Tokens a second, a bar a model and phase, with the spread of the samples."""
    traces = []
    for role, phase in enumerate(_phases(benches)):
        chosen = [bench for bench in benches if bench.phase == phase]
        tokens = [bench.tokens_per_s * bench.step_s.median for bench in chosen]
        rates = [bench.tokens_per_s for bench in chosen]
        spread = {
            "type": "data",
            "symmetric": False,
            "array": [n / b.step_s.p10 - b.tokens_per_s for n, b in zip(tokens, chosen, strict=True)],
            "arrayminus": [b.tokens_per_s - n / b.step_s.p90 for n, b in zip(tokens, chosen, strict=True)],
        }
        traces.append(
            {
                "type": "bar",
                "name": words(f"phase.{phase}"),
                "meta": {"role": role},
                "x": [safe(bench.model) for bench in chosen],
                "y": rates,
                "error_y": spread,
                "customdata": [f"{b.batch} x {b.seq_len}" for b in chosen],
                "hovertemplate": "%{x}, %{fullData.name}<br>%{y:,.4g} tokens/s at %{customdata}<extra></extra>",
            }
        )
    layout = {
        "barmode": "group",
        "yaxis": {"title": {"text": words("chart.tokens")}, "rangemode": "tozero"},
        "xaxis": {"type": "category", **_ticks(benches)},
        "height": 360,
    }
    return _chart("speed", words, traces, layout, caption=words("chart.speed_caption"))


def _utilization(benches: Sequence[BenchResult], words: Words) -> Chart:
    """MFU, a bar a model, phase and denominator; an unknown denominator has no bar."""
    traces = []
    role = 0
    for phase in _phases(benches):
        for kind in ("datasheet", "user", "measured", "notebook"):
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
                    "meta": {"role": role},
                    "x": [safe(bench.model) for bench, _ in rows],
                    "y": [100 * row.fraction for _, row in rows if row.fraction is not None],
                    "customdata": [safe(row.peak_source or "") for _, row in rows],
                    "hovertemplate": "%{x}, %{fullData.name}<br>%{y:.1f} % of %{customdata}<extra></extra>",
                }
            )
            role += 1
    layout = {
        "barmode": "group",
        "yaxis": {"title": {"text": words("chart.mfu")}, "rangemode": "tozero", "ticksuffix": " %"},
        "xaxis": {"type": "category", **_ticks(benches)},
        "height": 360,
    }
    return _chart("utilization", words, traces, layout, caption=words("chart.utilization_caption"))


def _phases(benches: Iterable[BenchResult]) -> list[str]:
    return list(dict.fromkeys(bench.phase for bench in benches))


def _chart(name: str, words: Words, traces: list[dict[str, Any]], layout: dict[str, Any], *, caption: str) -> Chart:
    figure = {"data": traces, "layout": layout}
    return Chart(id=name, title=words(f"chart.{name}"), caption=caption, figure=figure)


def _ticks(results: Sequence[CountResult | BenchResult]) -> dict[str, Any]:
    """Labels of an axis of models: whole names tell them apart, what is drawn of a long one leaves room for bars."""
    models = list(dict.fromkeys(result.model for result in results))
    labels = [name if len(name) <= _LABEL_CHARACTERS else name[: _LABEL_CHARACTERS - 1] + "…" for name in models]
    return {"tickvals": [safe(name) for name in models], "ticktext": [safe(label) for label in labels]}


def safe(text: str) -> str:
    """A name as plotly draws it letter by letter: it would take `<b>` for bold and `&lt;` for `<`."""
    return html.escape(text, quote=False)
