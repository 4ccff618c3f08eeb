"""Each chart of a record as PNG and SVG, drawn by plotly in a browser of this machine (kaleido); nothing is loaded."""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib.util
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from flopwatch.errors import FlopwatchError, MissingError
from flopwatch.record import Record
from flopwatch.report.charts import Chart, charts_of
from flopwatch.report.charts.chart import Figure, View, safe
from flopwatch.report.messages import Language, Words

Format = Literal["png", "svg"]
FORMATS: Final[tuple[Format, ...]] = ("png", "svg")
_STYLE: Final = Path(__file__).with_name("templates") / "page.css"
_N_COLOURS: Final = 8
_WIDTH: Final = 1000
_TITLE_HEIGHT: Final = 60
_PNG_SCALE: Final = 2
_TIMEOUT_S: Final = 60
_NAME_CHARACTERS: Final = 80


def check_plots() -> None:
    """Raise MissingError when charts cannot be drawn into files here, with what to install."""
    if importlib.util.find_spec("kaleido") is None:
        raise MissingError("--plots needs kaleido, which is not installed", hint="pip install 'flopwatch[plots]'")
    _browser()


def _browser() -> str:
    """The Chrome or Chromium that draws; raises MissingError when there is none."""
    from choreographer.browsers.chromium import ChromeNotFoundError, Chromium

    try:
        return str(Chromium.find_browser(skip_local=False))
    except ChromeNotFoundError as error:
        raise MissingError(
            "--plots needs Chrome or Chromium, and none was found",
            hint="install it (apt-get install chromium), or name it in BROWSER_PATH; --html needs none",
        ) from error


def plots_of(record: Record, *, lang: Language = "en") -> dict[str, bytes]:
    """Every chart of the record as `NAME.png` and `NAME.svg`, each view of it a file; empty for one without charts.

    Raises MissingError when kaleido or a browser is not here, FlopwatchError when the browser fails.
    """
    words = Words(lang)
    pictures = dict(_pictures(charts_of(record, words)))
    if not pictures:
        return {}
    check_plots()
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as apart:  # the caller may have an event loop of its own
        return apart.submit(asyncio.run, _draw(pictures)).result()


def _pictures(charts: list[Chart]) -> Iterator[tuple[str, Figure]]:
    """File name without its ending -> the figure with title and colours, no two of one name."""
    taken: set[str] = set()
    for chart in charts:
        for view in chart.views:
            base = name = _file_name(chart, view)
            while name in taken:
                name = f"{base}-{sum(other.startswith(base) for other in taken) + 1}"
            taken.add(name)
            yield name, _finished(chart, view)


def _file_name(chart: Chart, view: View) -> str:
    """`roofline-gpt-small-training-batch-4`: letters, digits, dots and hyphens of what the chart is called."""
    plain = unicodedata.normalize("NFKC", f"{chart.id} {view.label if len(chart.views) > 1 else ''}")
    return re.sub(r"[^\w.]+", "-", plain).strip("-.")[:_NAME_CHARACTERS]


async def _draw(pictures: Mapping[str, Figure]) -> dict[str, bytes]:
    import kaleido

    files: dict[str, bytes] = {}
    page = kaleido.PageGenerator(mathjax=False)
    try:
        async with kaleido.Kaleido(n=1, timeout=_TIMEOUT_S, page_generator=page) as drawer:
            for name, picture in pictures.items():
                for form in FORMATS:
                    scale = _PNG_SCALE if form == "png" else 1
                    size = {"width": _WIDTH, "height": picture["layout"]["height"], "scale": scale}
                    files[f"{name}.{form}"] = await drawer.calc_fig(picture, opts={"format": form, **size})
    except (OSError, RuntimeError, ValueError) as error:
        raise FlopwatchError(
            f"the browser did not draw the charts ({error})", hint="--html needs no browser"
        ) from error
    return files


def _finished(chart: Chart, view: View) -> Figure:
    """The figure as it stands alone: a title, the page's light colours, a legend at its side."""
    colours = _colours()
    title = chart.title if not view.label else f"{chart.title}: {view.label}"
    layout = view.figure["layout"]
    axes = {
        name: {"gridcolor": colours["line"], "zerolinecolor": colours["line"], "automargin": True, **axis}
        for name, axis in layout.items()
        if re.match(r"[xy]axis", name)
    }
    lines = [{**shape, "line": {**shape["line"], "color": colours["dim"]}} for shape in layout.get("shapes", [])]
    return {
        "data": [_painted(trace, colours) for trace in view.figure["data"]],
        "layout": {
            "paper_bgcolor": colours["back"],
            "plot_bgcolor": colours["back"],
            "font": {"color": colours["text"], "size": 13, "family": "sans-serif"},
            "margin": {"t": _TITLE_HEIGHT, "r": 20, "b": 50, "l": 20},
            **layout,
            **axes,
            "shapes": lines,
            "title": {"text": safe(title), "x": 0.01, "font": {"size": 16}},
            "height": layout["height"] + _TITLE_HEIGHT,
        },
    }


def _painted(trace: Mapping[str, Any], colours: Mapping[str, str]) -> dict[str, Any]:
    """The trace in its colours, as page.js paints it."""
    meta = trace["meta"]
    if trace["type"] == "icicle":
        marker = {"colors": [_of_role(role, colours) for role in meta["roles"]], "line": {"color": colours["back"]}}
        return {**trace, "marker": marker}
    own = [_of_role(r, colours) for r in meta["roles"]] if "roles" in meta else _of_role(meta["role"], colours)
    painted = {**trace, "marker": {"color": own, **trace.get("marker", {})}}
    if meta.get("is_outlined"):
        outline = {"color": colours["text"], "width": 1.5}
        painted["marker"] = {"color": "rgba(0,0,0,0)", "line": outline}
        painted["insidetextfont"] = {"color": colours["text"]}
    elif "line" in painted["marker"]:
        painted["marker"]["line"] = {**painted["marker"]["line"], "color": own}
    if "line" in trace:
        painted["line"] = {**trace["line"], "color": own}
    return painted


def _of_role(role: int | None, colours: Mapping[str, str]) -> str:
    return colours["line"] if role is None else colours[f"c{role % _N_COLOURS}"]


def _colours() -> dict[str, str]:
    """The colours of the page in the light, from its style sheet: the first of each name."""
    found: dict[str, str] = {}
    for name, colour in re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", _STYLE.read_text(encoding="utf-8")):
        found.setdefault(name, colour)
    return found
