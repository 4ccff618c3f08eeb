"""A chart as plain data: a plotly figure whose points are the record's, and what plotly must not take for markup."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from flopwatch.report.messages import Words

GIB: Final = 1 << 30
_LABEL_CHARACTERS: Final = 28

Figure = dict[str, Any]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of a chart; `label` (plain text) names it where there are several to choose from."""

    label: str
    figure: Figure


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """One chart: its title and what it says in words, for those who cannot see it, and one figure or several."""

    id: str
    title: str
    caption: str
    views: Sequence[View]


def chart(
    name: str,
    words: Words,
    views: Iterable[tuple[str, Figure]],
    *,
    title: str | None = None,
    caption: str | None = None,
) -> Chart:
    """The chart called `name`; title and caption are the messages `chart.NAME` and `chart.NAME_caption`."""
    return Chart(
        id=name,
        title=words(f"chart.{name}") if title is None else title,
        caption=words(f"chart.{name}_caption") if caption is None else caption,
        views=[View(label=label, figure=figure) for label, figure in views],
    )


def figure(traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> Figure:
    """A figure as plotly takes it. A trace's `meta.role` is the number of its colour, which the page's style gives."""
    return {"data": list(traces), "layout": dict(layout)}


def safe(text: str) -> str:
    """A name as plotly draws it letter by letter: it would take `<b>` for bold and `&lt;` for `<`."""
    return html.escape(text, quote=False)


def short(text: str, n_characters: int = _LABEL_CHARACTERS) -> str:
    """A name cut to what leaves room for bars, escaped as `safe` does."""
    return safe(text if len(text) <= n_characters else text[: n_characters - 1] + "…")


def ticks(models: Iterable[str]) -> dict[str, Any]:
    """Labels of an axis of models: whole names tell them apart, what is drawn of a long one leaves room for bars."""
    names = list(dict.fromkeys(models))
    return {"tickvals": [safe(name) for name in names], "ticktext": [short(name) for name in names]}


def batch_axis(batches: Sequence[int], words: Words) -> dict[str, Any]:
    """A logarithmic axis of batches, its ticks the powers of two around them."""
    exponents = range(min(batches).bit_length() - 1, max(batches).bit_length() + 1)
    return {"title": {"text": words("chart.batch")}, "type": "log", "tickvals": [1 << n for n in exponents]}


def step_label(model: str, phase: str, words: Words, *, batch: int | None = None) -> str:
    """A step as plain text: `gpt-small, training, batch 4`."""
    text = words("chart.step", model=model, phase=words(f"phase.{phase}").lower())
    return text if batch is None else words("chart.at_batch", step=text, batch=f"{batch:,}")


def hover(*lines: str) -> str:
    """What plotly says of a point, one line each; places in `%{...}` are filled in by plotly."""
    return "<br>".join(lines) + "<extra></extra>"


def batch_hover(value: str, words: Words) -> str:
    """What plotly says of a point whose x is a batch: its line, the batch, the value."""
    return hover("%{fullData.name}", words("chart.batch_n", batch="%{x}"), value)
