"""A record as one HTML file that needs nothing else: no network, no other file, safe for any name in the record."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jinja2
import msgspec
from markupsafe import Markup

from flopwatch.record import Record
from flopwatch.report.document import Cell, Facts, Heading, Note, Table
from flopwatch.report.messages import LANGUAGES, Language, Words
from flopwatch.report.page import Page, page_of
from flopwatch.report.whatif import Panel

_FOLDER: Final = Path(__file__).with_name("templates")
# What the ids of a language begin with, so that each is in the file once.
_PREFIXES: Final[dict[Language, str]] = {"en": "", "zh": "zh-"}


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    """The whole page in one language; the file holds one for each, and its switch shows one of them."""

    lang: Language
    tag: str
    title: str
    markup: Markup
    figures: dict[str, Any]
    panels: dict[str, Panel]


def to_html(records: Record | Sequence[Record], *, lang: Language = "en") -> str:
    """The page of a record, or of several below one another, as a whole HTML document that opens in `lang`.

    The page's figures are the record's; the record itself is embedded and can be saved from the page. A content
    security policy lets the page run its own scripts only and load nothing. plotly.js, the record and what is no text
    are in the file once, whatever the number of languages.
    """
    given = [records] if isinstance(records, Record) else list(records)
    bodies = [_body(given, Words(each)) for each in LANGUAGES]
    figures = {name: figure for body in bodies for name, figure in body.figures.items()}
    panels = {name: panel for body in bodies for name, panel in body.panels.items()}
    names = ["page.js", *(["whatif.js"] if panels else [])]
    scripts = [*([_plotly()] if figures else []), *map(_text, names)]
    return (
        _environment()
        .get_template("page.html")
        .render(
            bodies=bodies,
            shown=next(body for body in bodies if body.lang == lang),
            policy=_policy(scripts),
            style=Markup(_text("page.css") + (_text("whatif.css") if panels else "")),  # noqa: S704 - our own files
            scripts=[Markup(script) for script in scripts],  # noqa: S704 - our own files
            figures=_embedded(figures),
            panels=_embedded(_calculators(panels)) if panels else None,
            records=_embedded([record.to_dict() for record in given] if len(given) != 1 else given[0].to_dict()),
        )
    )


def _body(records: Sequence[Record], words: Words) -> _Body:
    """Everything that a reader of one language sees. All its ids begin with the prefix of the language."""
    pages = [page_of(record, words) for record in records]
    prefix = _PREFIXES[words.lang]
    markup = (
        _environment()
        .get_template("body.html")
        .render(
            words=words,
            pages=pages,
            prefix=prefix,
            languages=[(each, Words(each).tag, Words(each)("page.language_name")) for each in LANGUAGES],
            file_name=_file_name(pages),
        )
    )
    return _Body(
        lang=words.lang,
        tag=words.tag,
        title=pages[0].title if pages else words("report.title"),
        markup=Markup(markup),  # noqa: S704 - our own template, which escapes
        panels={
            f"{prefix}{index}": section.panel
            for index, page in enumerate(pages)
            for section in page.sections
            if section.panel is not None
        },
        figures={
            f"{prefix}{index}-{chart.id}": [view.figure for view in chart.views]
            for index, page in enumerate(pages)
            for section in page.sections
            for chart in section.charts
        },
    )


def _calculators(panels: Mapping[str, Panel]) -> dict[str, Any]:
    """What the calculators work with: the numbers of each record once, and the words of each language."""
    return {
        "numbers": {name.rpartition("-")[2]: panel.numbers for name, panel in panels.items()},
        "said": {name: panel.said for name, panel in panels.items()},
    }


@functools.cache
def _environment() -> jinja2.Environment:
    """Our templates, compiled once."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.tests.update(
        {
            "heading": lambda block: isinstance(block, Heading),
            "note": lambda block: isinstance(block, Note),
            "facts": lambda block: isinstance(block, Facts),
            "table": lambda block: isinstance(block, Table),
        }
    )
    environment.filters["cell"] = lambda cell: cell if isinstance(cell, Cell) else Cell(text=cell)
    return environment


def _plotly() -> str:
    """plotly.js as plotly's own package ships it; it is needed only where there is something to draw."""
    from plotly.offline import get_plotlyjs

    text: str = get_plotlyjs()
    return text.replace("</script", "<\\/script")


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _embedded(data: Any) -> Markup:
    """JSON that cannot end the element it stands in, whatever its strings say."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - nothing is left in it that markup is made of


def _policy(scripts: Sequence[str]) -> str:
    """A content security policy under which these scripts run, styles are inline, and nothing is loaded."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts
    )
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"


def _file_name(pages: Sequence[Page]) -> str:
    return "flopwatch-report.json" if pages and pages[0].verdicts else "flopwatch-record.json"
