"""Memory at the peak by part, predicted, beside what was measured; and a step's live bytes over time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from flopwatch.record import BenchResult, FitResult, MemoryResult
from flopwatch.report.charts.chart import GIB, Chart, chart, figure, hover, safe, short, step_label
from flopwatch.report.content.figures import error_text
from flopwatch.report.messages import Words

_BAR: dict[str, Any] = {"type": "bar", "orientation": "h", "width": 0.36}
_ROW_HEIGHT = 62


class _Case(msgspec.Struct, frozen=True, kw_only=True):
    """One step: what was predicted of its peak, by part, and what was measured (None: nothing), and of what."""

    label: str
    parts: Mapping[str, int]
    measured_bytes: int | None = None
    measured_of: str = ""


def predicted(results: Sequence[MemoryResult], words: Words) -> list[Chart]:
    """The parts of each predicted peak; nothing is measured here."""
    cases = [_Case(label=_label(result, words), parts=result.parts) for result in results if any(result.parts.values())]
    return _by_part("memory_predicted", cases, words)


def beside_measured(fits: Sequence[FitResult], benches: Sequence[BenchResult], words: Words) -> list[Chart]:
    """The predicted parts of each peak above its measured total; steps that were not measured are left out."""
    measured: list[tuple[FitResult | BenchResult, int | None, str]] = [
        (fit, fit.measured_peak_bytes, words("chart.of_all")) for fit in fits
    ]
    measured += [(bench, bench.peak_memory_bytes, words("chart.of_tensors")) for bench in benches]
    cases = [
        _Case(
            label=step_label(step.model, step.phase, words, batch=step.batch),
            parts=step.predicted_parts,
            measured_bytes=n_bytes,
            measured_of=what,
        )
        for step, n_bytes, what in measured
        if step.predicted_parts and n_bytes
    ]
    return _by_part("memory", _once(cases), words)


def _once(cases: Sequence[_Case]) -> list[_Case]:
    """A step with the same figure twice, as two searches find it, has one row."""
    return list({(case.label, case.measured_bytes): case for case in cases}.values())


def _label(result: MemoryResult, words: Words) -> str:
    if result.phase is None:
        return result.model
    return step_label(result.model, result.phase, words, batch=result.batch)


def _by_part(name: str, cases: Sequence[_Case], words: Words) -> list[Chart]:
    if not cases:
        return []
    parts = list(dict.fromkeys(part for case in cases for part, n in case.parts.items() if n))
    has_measured = any(case.measured_bytes is not None for case in cases)
    offset = 0.2 if has_measured else 0.0
    traces = [_part(part, role, cases, offset, words) for role, part in enumerate(parts)]
    if has_measured:
        traces.append(_measured(cases, offset, len(parts), words))
    most = max(max(sum(case.parts.values()), case.measured_bytes or 0) for case in cases)
    layout = {
        "barmode": "stack",
        "xaxis": {"title": {"text": words("chart.gib")}, "range": [0, 1.04 * most / GIB]},
        "yaxis": {
            "tickvals": list(range(len(cases))),
            "ticktext": [short(case.label, 40).replace(", ", "<br>", 1) for case in cases],
            "range": [len(cases) - 0.5, -0.5],
        },
        "legend": {"traceorder": "normal"},
        "height": 190 + _ROW_HEIGHT * len(cases),
    }
    return [chart(name, words, [("", figure(traces, layout))])]


def _part(part: str, role: int, cases: Sequence[_Case], offset: float, words: Words) -> dict[str, Any]:
    """One part of every predicted peak."""
    name = words.said(part)
    return {
        **_BAR,
        "name": safe(name),
        "meta": {"role": role},
        "y": [index - offset for index in range(len(cases))],
        "x": [case.parts.get(part, 0) / GIB for case in cases],
        "customdata": [[safe(case.label), f"{case.parts.get(part, 0):,}"] for case in cases],
        "hovertemplate": hover("%{customdata[0]}", "%{fullData.name}: %{x:.3f} GiB (%{customdata[1]} B)"),
    }


def _measured(cases: Sequence[_Case], offset: float, role: int, words: Words) -> dict[str, Any]:
    """The measured totals, each with how far the prediction is from it."""
    rows = list(_measured_rows(cases))
    return {
        **_BAR,
        "name": words("chart.measured"),
        "meta": {"role": role, "is_outlined": True},
        "y": [index + offset for index, _, _ in rows],
        "x": [n_bytes / GIB for _, _, n_bytes in rows],
        "text": [
            words("chart.error", error=error_text(sum(case.parts.values()), n_bytes), what=case.measured_of)
            for _, case, n_bytes in rows
        ],
        "textposition": "inside",
        "insidetextanchor": "start",
        "customdata": [[safe(case.label), f"{n_bytes:,}"] for _, case, n_bytes in rows],
        "hovertemplate": hover("%{customdata[0]}", "%{fullData.name}: %{x:.3f} GiB (%{customdata[1]} B)", "%{text}"),
    }


def _measured_rows(cases: Sequence[_Case]) -> Iterator[tuple[int, _Case, int]]:
    for index, case in enumerate(cases):
        if case.measured_bytes is not None:
            yield index, case, case.measured_bytes


def timeline(results: Sequence[MemoryResult], words: Words) -> list[Chart]:
    """Live bytes of each step from its first allocation to its last release."""
    views = [
        (_label(result, words), figure([_alive(result.details["timeline"], words)], _timeline_layout(words)))
        for result in results
        if result.details.get("timeline")
    ]
    return [chart("timeline", words, views)] if views else []


def _alive(points: Sequence[Mapping[str, Any]], words: Words) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "fill": "tozeroy",
        "showlegend": False,
        "meta": {"role": 0},
        "x": [point["event"] for point in points],
        "y": [point["alive_bytes"] / GIB for point in points],
        "customdata": [[safe(words.said(point["phase"])), f"{point['alive_bytes']:,}"] for point in points],
        "hovertemplate": hover("%{y:.3f} GiB (%{customdata[1]} B)", "%{customdata[0]}"),
    }


def _timeline_layout(words: Words) -> dict[str, Any]:
    return {
        "xaxis": {"title": {"text": words("chart.event")}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": words("chart.gib")}, "rangemode": "tozero"},
        "height": 320,
    }
