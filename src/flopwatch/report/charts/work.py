"""FLOPs: shares by kind of work side by side, and each model's modules as an icicle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from flopwatch import units
from flopwatch.record import CountResult
from flopwatch.report.charts.chart import Chart, Figure, chart, figure, hover, safe, short, step_label, ticks
from flopwatch.report.messages import Words

_ORDER: Final = ("attention_weights", "attention_scores", "ffn", "experts", "head", "other")
_GROUPS: Final = (
    ("attention_weights", ("layers.attention.",)),
    ("ffn", ("layers.ffn.",)),
    ("experts", ("layers.moe.", "layers.shared.")),
    ("head", ("head",)),
)
_SCORES: Final = (".attention.scores", ".attention.values")
_N_COLOURS: Final = 8


def part_group(part: str) -> str:
    """The kind of work that a part of a count is: the key of its message."""
    if part.endswith(_SCORES):
        return "attention_scores"
    return next((group for group, starts in _GROUPS if part.startswith(starts)), "other")


def kinds(counts: Sequence[CountResult], words: Words) -> list[Chart]:
    """Shares of the FLOPs of each model by kind of work, a bar a model; of closed forms, whose parts have kinds."""
    counts = [count for count in counts if count.source == "closed-form" and any(count.flops.parts.values())]
    if not counts or len({count.model for count in counts}) < len(counts):
        return []
    models = [safe(count.model) for count in counts]
    sums = [_grouped(count) for count in counts]
    traces = []
    for role, group in enumerate(_ORDER):
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
                    "hovertemplate": hover("%{y}", "%{fullData.name}: %{customdata} FLOPs (%{x:.1f} %)"),
                }
            )
    layout = {
        "barmode": "stack",
        "xaxis": {"title": {"text": words("chart.share")}, "range": [0, 100], "ticksuffix": " %"},
        "yaxis": {"type": "category", "autorange": "reversed", **ticks(count.model for count in counts)},
        "legend": {"traceorder": "normal"},
        "height": 170 + 38 * len(counts),
    }
    caption = words("chart.work_caption", phase=words(f"phase.{counts[0].phase}"))
    return [chart("work", words, [("", figure(traces, layout))], caption=caption)]


def _grouped(count: CountResult) -> dict[str, int]:
    amounts: dict[str, int] = {}
    for part, flops in count.flops.parts.items():
        amounts[part_group(part)] = amounts.get(part_group(part), 0) + flops
    return amounts


def modules(counts: Sequence[CountResult], words: Words) -> list[Chart]:
    """FLOPs by module of each model, the exact amount of every module on hover; a trace's modules or the parts."""
    firsts = {count.model: count for count in reversed(counts) if any(count.by_module().values())}
    chosen = [count for count in counts if firsts.get(count.model) is count]
    views = [(step_label(count.model, count.phase, words), _icicle(count.model, count.by_module())) for count in chosen]
    return [chart("modules", words, views)] if views else []


def _icicle(model: str, amounts: Mapping[str, int]) -> Figure:
    """The tree of dotted names. A node's value is its own FLOPs, plotly adds those below: sums are shown as text."""
    sums: dict[str, int] = {}
    for path, flops in amounts.items():
        pieces = path.split(".") if path else []
        for depth in range(len(pieces) + 1):
            name = ".".join(pieces[:depth])
            sums[name] = sums.get(name, 0) + flops
    nodes = {name: total for name, total in sums.items() if total}
    leaves = list(dict.fromkeys(_last(name) for name in nodes if amounts.get(name)))
    total = nodes[""]
    trace: dict[str, Any] = {
        "type": "icicle",
        "ids": [safe(f"/{name}") for name in nodes],
        "labels": [short(_last(name) or model) for name in nodes],
        "parents": [safe(f"/{name.rpartition('.')[0]}") if name else "" for name in nodes],
        "values": [amounts.get(name, 0) for name in nodes],
        "text": [f"{units.format_flops(n)}, {units.format_percent(n / total)}" for n in nodes.values()],
        "customdata": [[safe(name or model), f"{n:,}"] for name, n in nodes.items()],
        "hovertemplate": hover("%{customdata[0]}", "%{customdata[1]} FLOPs (%{percentRoot:.2%})"),
        "branchvalues": "remainder",
        "textinfo": "label+text",
        "sort": False,
        "pathbar": {"visible": False},
        "tiling": {"orientation": "h", "pad": 1},
        "meta": {"roles": [leaves.index(_last(n)) % _N_COLOURS if amounts.get(n) else None for n in nodes]},
    }
    return figure([trace], {"height": 400, "uniformtext": {"minsize": 9, "mode": "hide"}})


def _last(path: str) -> str:
    """The last piece of a dotted name: what modules of one kind have in common in every layer."""
    return path.rpartition(".")[2]
