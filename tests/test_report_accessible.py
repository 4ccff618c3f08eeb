"""axe-core finds no serious fault on the page: light and dark, wide and narrow, in both languages."""

import json
from pathlib import Path

import pytest

from browser_page import browser_only

RECORDS = Path(__file__).parent / "data" / "records"
CASES = [(1280, False, "en"), (1280, True, "en"), (375, False, "zh"), (375, True, "en")]

pytestmark = browser_only


@pytest.mark.parametrize(("width", "dark", "lang"), CASES)
@pytest.mark.parametrize("name", ["report_full", "bench_full", "compare"])
def test_axe_finds_no_serious_fault(opened, name, width, dark, lang):
    """WCAG 2 A and AA, with everything unfolded; what is left may be minor or moderate only."""
    from axe_playwright_python.sync_playwright import Axe

    shown = opened(
        json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8")), width=width, dark=dark, lang=lang
    )
    shown.page.evaluate("for (const node of document.querySelectorAll('details')) node.open = true")
    found = Axe().run(shown.page).response["violations"]
    serious = [
        (fault["id"], node["target"], node["failureSummary"])
        for fault in found
        if fault["impact"] in {"serious", "critical"}
        for node in fault["nodes"][:3]
    ]
    assert serious == []
