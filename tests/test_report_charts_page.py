"""Charts in a real browser: each draws, holds the figures that the record gives it, and fits the paper in print."""

import json
from pathlib import Path

import pytest

from browser_page import browser_only
from flopwatch.record import load_record
from flopwatch.report.charts import charts_of
from flopwatch.report.messages import Words

RECORDS = Path(__file__).parent / "data" / "records"
PAPER_PIXELS = (210 - 2 * 14) / 25.4 * 96  # A4 within the margins of 14 mm
# What a reader takes from a trace; the rest is colour and room.
DRAWN = ("x", "y", "values", "ids", "labels", "parents", "customdata", "text", "name")
READ = """
node => node.data.map(trace => Object.fromEntries(
    %s.filter(key => trace[key] !== undefined)
        .map(key => [key, typeof trace[key] === "string" ? trace[key] : [...trace[key]]])))
""" % json.dumps(list(DRAWN))  # noqa: UP031
KINDS = [
    "report_full",
    "bench_full",
    "count_trace",
    "count_conventions",
    "memory_timeline",
    "mfu_all",
    "compare",
    "roofline",
]

pytestmark = browser_only


def _data(name):
    return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))


def _wanted(view):
    return [{key: trace[key] for key in DRAWN if key in trace} for trace in view.figure["data"]]


@pytest.mark.parametrize("name", KINDS)
def test_every_chart_and_every_view_of_it_draws_its_figures(opened, name):
    """Read back out of plotly; nothing is said on the console and nothing is asked of a network."""
    shown = opened(_data(name))
    charts = charts_of(load_record(json.dumps(_data(name))), Words("en"))
    assert charts
    for chart in charts:
        node = shown.page.locator(f"#chart-0-{chart.id}")
        assert node.count() == 1
        for index, view in enumerate(chart.views):
            if len(chart.views) > 1:
                shown.page.locator(f"select[data-chart='0-{chart.id}']").select_option(str(index))
            assert node.evaluate(READ) == _wanted(view), chart.id
            marks = node.locator(".main-svg").first.locator(".point, .points path, .lines path, .slice")
            assert marks.count() >= 1, chart.id
    assert shown.said == []


@pytest.mark.parametrize(("width", "dark"), [(1280, True), (375, False)])
def test_a_whole_report_fits_the_window(opened, width, dark):
    """No sideways scrolling, no chart wider than its frame, no legend or label cut off at the right."""
    shown = opened(_data("report_full"), width=width, dark=dark)
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
    outside = shown.page.evaluate("""
        [...document.querySelectorAll(".chart")].filter(node => node.offsetParent).flatMap(node => {
            const frame = node.getBoundingClientRect();
            return [...node.querySelectorAll("text")].filter(text => {
                const box = text.getBoundingClientRect();
                return box.width && (box.right > frame.right + 1 || box.left < frame.left - 1);
            }).map(text => node.id + ": " + text.textContent);
        })""")
    assert outside == []
    assert shown.said == []


def test_charts_are_drawn_for_the_paper_in_print(opened, tmp_path):
    """Before printing each chart takes the width that A4 leaves; the PDF has every title; then all is as it was."""
    shown = opened(_data("report_full"))
    before = shown.page.evaluate("[...document.querySelectorAll('.main-svg')].map(node => node.clientWidth)")
    shown.page.evaluate("window.printed = []")
    shown.page.evaluate("""
        window.addEventListener("beforeprint", () => window.printed =
            [...document.querySelectorAll(".chart")].filter(node => node.offsetParent)
                .map(node => node.querySelector(".main-svg").clientWidth))""")
    shown.page.pdf(path=tmp_path / "report.pdf", format="A4")
    printed = shown.page.evaluate("window.printed")
    assert len(printed) == shown.page.locator(".chart:visible").count() > 5
    assert all(0.8 * PAPER_PIXELS < width <= PAPER_PIXELS for width in printed)
    after = shown.page.evaluate("[...document.querySelectorAll('.main-svg')].map(node => node.clientWidth)")
    assert after == before
    assert shown.said == []


def test_a_menu_is_reached_and_used_by_keyboard(opened):
    """Arrow down on the roofline's menu shows the second step."""
    shown = opened(_data("report_full"))
    menu = shown.page.locator("select[data-chart='0-roofline']")
    menu.focus()
    shown.page.keyboard.press("ArrowDown")
    views = charts_of(load_record(json.dumps(_data("report_full"))), Words("en"))
    (roofline,) = [chart for chart in views if chart.id == "roofline"]
    assert shown.page.locator("#chart-0-roofline").evaluate(READ) == _wanted(roofline.views[1])
