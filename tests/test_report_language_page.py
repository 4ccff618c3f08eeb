"""The page in two languages in one file: switched by keyboard, Chinese drawn, and nothing doubled that need not be."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from browser_page import browser_only
from flopwatch.record import load_record
from flopwatch.report.html import to_html

RECORDS = Path(__file__).parent / "data" / "records"
TAGS = {"en": "en", "zh": "zh-Hans"}


def _data(kind: str) -> dict:
    return json.loads((RECORDS / f"{kind}.json").read_text(encoding="utf-8"))


def _has_cjk_font() -> bool:
    if shutil.which("fc-list") is None:
        return True  # no fontconfig to ask: let the browser find out
    return bool(subprocess.run(["fc-list", ":lang=zh-cn"], capture_output=True, text=True, check=True).stdout.strip())


@pytest.mark.parametrize("lang", TAGS)
def test_the_file_holds_both_languages_once(lang):
    """One document in the language asked for; every id once; plotly.js and the record once."""
    page = to_html(load_record(json.dumps(_data("report"))), lang=lang)
    assert re.findall(r"<html lang=\"([^\"]+)\"", page) == [TAGS[lang]]
    shown = re.findall(r'<div class="body" lang="([^"]+)"[^>]*?( hidden)?>', page)
    assert shown == [(tag, "" if name == lang else " hidden") for name, tag in TAGS.items()]
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    ids = re.findall(r"\sid=\"([^\"]+)\"", markup)
    assert len(ids) == len(set(ids)) > 20
    assert markup.count('id="record"') == 1
    assert page.count("plotly.js v") == 1
    assert "有多少计算量" in page
    assert "How much work" in page
    assert ("<title>flopwatch 报告</title>" in page) == (lang == "zh")


def test_both_languages_have_the_same_charts_and_elements():
    """What is switched between stands at the same place in both."""
    page = to_html(load_record(json.dumps(_data("report"))))
    english, chinese = re.split(r'<div class="body" ', re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))[1:]
    assert re.findall(r"<[a-z0-9]+", english) == re.findall(r"<[a-z0-9]+", chinese)
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', page).group(1))
    assert {name for name in figures if name.startswith("zh-")} == {f"zh-{n}" for n in figures if n[0].isdigit()}


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (375, True)])
class TestTheSwitch:
    """Wide and light, narrow and dark."""

    pytestmark = browser_only

    def test_the_keyboard_switches_the_language_there_and_back(self, opened, width, dark):
        """Tab leads to the switch, Enter presses it, the focus stays on it, all charts draw, and nothing is said."""
        shown = opened(_data("report"), width=width, dark=dark)
        page = shown.page
        n_charts = page.locator(".chart:visible").count()
        steps = (("Tab", "中文", "zh-Hans", "flopwatch 报告"), ("Shift+Tab", "English", "en", "flopwatch report"))
        for key, name, tag, title in steps:
            for _ in range(4):
                if page.evaluate("document.activeElement.textContent") != name:
                    page.keyboard.press(key)
            assert page.evaluate("document.activeElement.textContent") == name
            page.keyboard.press("Enter")
            assert page.evaluate("document.documentElement.lang") == tag
            assert page.title() == title
            assert page.locator("h1:visible").all_inner_texts() == [title]
            assert page.locator(".chart:visible:has(.main-svg)").count() == n_charts > 0
            assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
            assert page.evaluate("document.activeElement.textContent") == name
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.said == []


class TestChinese:
    """A page that opens in Chinese."""

    pytestmark = browser_only

    @pytest.mark.skipif(not _has_cjk_font(), reason="no Chinese font on this machine (apt-get install fonts-noto-cjk)")
    def test_every_character_has_a_shape_of_its_own(self, opened):
        """A font that lacks a character draws the same box for each: no two of the page's characters look alike."""
        shown = opened(_data("report"), lang="zh")
        n_characters, n_shapes = shown.page.evaluate(
            """() => {
                const text = [...new Set(document.querySelector(".body:not([hidden])").innerText)];
                const characters = text.filter((c) => /\\p{Script=Han}/u.test(c));
                const canvas = Object.assign(document.createElement("canvas"), { width: 48, height: 48 });
                const pen = canvas.getContext("2d", { willReadFrequently: true });
                pen.font = "32px " + getComputedStyle(document.body).fontFamily;
                const shapes = characters.map((c) => {
                    pen.clearRect(0, 0, 48, 48);
                    pen.fillText(c, 6, 36);
                    return pen.getImageData(0, 0, 48, 48).data.join();
                });
                return [characters.length, new Set(shapes).size];
            }"""
        )
        assert n_characters > 100
        assert n_shapes == n_characters
        assert shown.said == []

    def test_charts_speak_chinese(self, opened):
        """Axes and legends are drawn in the language of the page."""
        shown = opened(_data("report"), lang="zh")
        shown.page.locator("#chart-zh-0-work .legendtext").first.wait_for()
        assert "前馈网络" in shown.page.locator("#chart-zh-0-work .legendtext").all_text_contents()
        assert shown.page.locator("#chart-0-work .main-svg").count() == 0

    def test_print_shows_one_language(self, opened):
        """The other one and the switch stay off the paper."""
        shown = opened(_data("report"), lang="zh")
        shown.page.emulate_media(media="print")
        assert shown.page.locator("h1:visible").all_inner_texts() == ["flopwatch 报告"]
        assert shown.page.locator(".languages:visible").count() == 0

    def test_an_address_of_the_other_language_opens_it(self, opened):
        """A link to #0-fit leads to the English section whatever the page opens in."""
        shown = opened(_data("report"), lang="zh")
        shown.page.goto(shown.page.url + "#0-fit")
        shown.page.reload()
        assert shown.page.evaluate("document.documentElement.lang") == "en"
        assert shown.page.locator("#\\30-fit").is_visible()

    def test_what_was_unfolded_stays_unfolded(self, opened):
        """Folds and the place on the page are the reader's, not the language's."""
        shown = opened(_data("report"))
        shown.page.locator(".body:not([hidden]) summary").nth(1).click()
        shown.page.locator(".languages button:visible", has_text="中文").press("Enter")
        assert shown.page.locator("details:visible").evaluate_all("folds => folds.map((fold) => fold.open)")[:3] == [
            False,
            True,
            False,
        ]
