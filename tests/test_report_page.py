"""The HTML page in a real browser: nothing is loaded, every chart draws the record's figures, names are only text."""

import html
import json
import re
import shutil
from pathlib import Path

import pytest

from flopwatch.record import load_record
from flopwatch.report.html import to_html

RECORDS = Path(__file__).parent / "data" / "records"
HOSTILE = "</script><img src=x onerror=alert(1)><b>bold</b>&lt;i&gt;"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser_only = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)"),
]


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
    assert not re.findall(r'\b(?:src|href|action)\s*=\s*["\'](?!#)', page)
    assert "default-src 'none'" in html.unescape(page)


def test_a_hostile_name_never_becomes_markup():
    """As text its signs are escaped everywhere outside of scripts, and inside of JSON."""
    page = to_html(load_record(json.dumps(_hostile())))
    assert "<img" not in page.replace(_plotly(page), "")
    assert page.count("<script") == page.replace(_plotly(page), "").count("<script")


def _plotly(page: str) -> str:
    return max(re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL), key=len)


def test_several_records_make_one_page():
    """A fit and a benchmark below one another, both embedded."""
    page = to_html([load_record((RECORDS / f"{kind}.json").read_bytes()) for kind in ("fit", "bench")])
    assert page.count("<h1>") == 2
    (embedded,) = re.findall(r'<script type="application/json" id="record">(.*?)</script>', page)
    assert [record["kind"] for record in json.loads(embedded)] == ["fit", "bench"]


class _Opened:
    """A page in the browser, with everything it said and asked for."""

    def __init__(self, page):
        self.page = page
        self.said = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", lambda dialog: (self.said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda asked: None if asked.url.startswith("file:") else self.said.append(asked.url))


@pytest.fixture(scope="module")
def chromium():
    """The system's Chromium, without a display."""
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, tmp_path):
    """Opens a record's page: `opened(data, width=375, dark=True)`."""

    def open_page(data, *, width=1280, dark=False):
        path = tmp_path / "page.html"
        path.write_text(to_html(load_record(json.dumps(data))), encoding="utf-8")
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", offline=True
        )
        shown = _Opened(context.new_page())
        shown.page.goto(path.as_uri())
        shown.page.wait_for_function("document.querySelectorAll('.chart').length == 0 || window.Plotly")
        return shown

    return open_page


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (375, True)])
class TestInTheBrowser:
    """Wide and light, narrow and dark."""

    pytestmark = browser_only

    def test_every_chart_draws_and_nothing_is_said_or_asked(self, opened, width, dark):
        """Four charts, no console message, no request, no sideways scrolling."""
        shown = opened(_data("report"), width=width, dark=dark)
        assert shown.page.locator(".chart .main-svg").count() >= 4
        assert shown.page.locator(".chart").count() == 4
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
