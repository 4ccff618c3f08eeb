"""The HTML page in a real browser: nothing is loaded, every chart draws the record's figures, names are only text."""

import html
import json
import re
from pathlib import Path

import pytest

from browser_page import browser_only
from flopwatch.record import load_record
from flopwatch.report.html import to_html
from flopwatch.report.messages import LANGUAGES

RECORDS = Path(__file__).parent / "data" / "records"
HOSTILE = "</script><img src=x onerror=alert(1)><b>bold</b>&lt;i&gt;"


def _data(kind: str) -> dict:
    return json.loads((RECORDS / f"{kind}.json").read_text(encoding="utf-8"))


def _hostile() -> dict:
    """The report with every name in it replaced by markup."""
    data = _data("report")
    data["environment"]["host"] = data["request"]["command"] = HOSTILE
    data["warnings"] = [HOSTILE]
    for number, result in enumerate(data["results"]):
        result["model"] = f"{HOSTILE}{number}"
        for item in (*result["counts"], *result["fits"], *result["benches"]):
            item["model"] = result["model"]
        for count in result["counts"]:
            count["flops"]["parts"] = {f"{name}{HOSTILE}": n for name, n in count["flops"]["parts"].items()}
            count["uncounted"] = [{"op": HOSTILE, "calls": 3}]
        for bench in result["benches"]:
            for row in bench["utilization"]:
                row["peak_source"] = HOSTILE
    return data


@pytest.mark.parametrize("path", sorted(RECORDS.glob("*.json")), ids=lambda path: path.stem)
def test_a_page_is_one_small_file_with_its_record_inside(path):
    """At most 6 MB, and what is embedded is the record."""
    page = to_html(load_record(path.read_bytes()))
    assert len(page.encode()) < 6_000_000
    (embedded,) = re.findall(r'<script type="application/json" id="record">(.*?)</script>', page)
    assert json.loads(embedded) == json.loads(path.read_text(encoding="utf-8"))
    assert page.count("plotly.js v") <= 1


def test_nothing_in_the_page_is_fetched():
    """No address is in the markup, and the policy forbids everything but the page's own scripts."""
    page = to_html(load_record(json.dumps(_data("fit"))))
    assert not re.findall(r'\b(?:src|href|action)\s*=\s*["\'](?!#)', page.replace(_plotly(page), ""))
    assert "default-src 'none'" in html.unescape(page)


def test_a_hostile_name_never_becomes_markup():
    """As text its signs are escaped everywhere outside of scripts, and inside of JSON."""
    page = to_html(load_record(json.dumps(_hostile())))
    assert "<img" not in page.replace(_plotly(page), "")
    assert page.count("<script") == page.replace(_plotly(page), "").count("<script")


def _plotly(page: str) -> str:
    return max(re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL), key=len)


def test_several_records_make_one_page():
    """A fit and a benchmark below one another, in both languages, each embedded once."""
    page = to_html([load_record((RECORDS / f"{kind}.json").read_bytes()) for kind in ("fit", "bench")])
    assert page.count("<h1>") == 2 * len(LANGUAGES)
    (embedded,) = re.findall(r'<script type="application/json" id="record">(.*?)</script>', page)
    assert [record["kind"] for record in json.loads(embedded)] == ["fit", "bench"]


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (375, True)])
class TestInTheBrowser:
    """Wide and light, narrow and dark."""

    pytestmark = browser_only

    def test_every_chart_draws_and_nothing_is_said_or_asked(self, opened, width, dark):
        """Every chart that is shown, no console message, no request, no sideways scrolling."""
        shown = opened(_data("report"), width=width, dark=dark)
        assert shown.page.locator(".chart:visible").count() == 6
        assert shown.page.locator(".chart:visible:has(.main-svg)").count() == 6
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.said == []

    def test_a_hostile_name_is_drawn_as_text(self, opened, width, dark):
        """In tables and in the charts; no image, no dialog."""
        shown = opened(_hostile(), width=width, dark=dark)
        assert shown.said == []
        assert shown.page.locator("img, b").count() == 0
        assert shown.page.locator("article h2").first.inner_text().startswith(HOSTILE)
        labels = shown.page.locator("#chart-0-work .ytick text").all_text_contents()
        assert set(labels) == {HOSTILE[:27] + "…"}
        shown.page.locator("#chart-0-probes .legendtext").first.wait_for()
        assert shown.page.locator("#chart-0-probes .legendtext").first.text_content().startswith(HOSTILE)


class TestFigures:
    """What the charts hold and what the page gives back."""

    pytestmark = browser_only

    def test_the_charts_hold_the_records_figures(self, opened):
        """Tokens/s and FLOPs by kind of work, read back out of plotly."""
        data = _data("report")
        shown = opened(data)
        drawn = shown.page.evaluate("document.getElementById('chart-0-speed').data.map(trace => [...trace.y])")
        assert drawn == [[bench["tokens_per_s"]] for bench in data["results"][0]["benches"]]
        work = shown.page.evaluate("document.getElementById('chart-0-work').data.map(trace => [...trace.customdata])")
        totals = [sum(int(amount.replace(",", "")) for amount in column) for column in zip(*work, strict=True)]
        assert totals == [result["counts"][1]["flops"]["total"] for result in data["results"]]

    def test_the_record_can_be_saved(self, opened):
        """The saved file is the record."""
        shown = opened(_data("report"))
        with shown.page.expect_download() as download:
            shown.page.locator("#save").press("Enter")
        assert json.loads(Path(download.value.path()).read_text(encoding="utf-8")) == _data("report")
        assert download.value.suggested_filename == "flopwatch-report.json"

    def test_the_keyboard_reaches_everything(self, opened):
        """Tab goes through the skip link, every wide table, every fold and the button."""
        shown = opened(_data("report"), width=375)
        targets = "a[href], summary, button, [tabindex='0']"
        wanted = shown.page.locator(targets).evaluate_all(
            "nodes => nodes.filter(node => node.checkVisibility()).length"
        )
        reached = set()
        for _ in range(wanted + 3):
            shown.page.keyboard.press("Tab")
            reached.add(shown.page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
        assert len(reached - {-1}) >= wanted
