"""What the tests in a real browser share: the system's Chromium, offline, and all that a page says and asks for."""

import json
import shutil

import pytest

from flopwatch.record import load_record
from flopwatch.report.html import to_html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser_only = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)"),
]
OPTIONS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


class Opened:
    """A page in the browser, with everything it said and asked for."""

    def __init__(self, page):
        self.page = page
        self.said = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", lambda dialog: (self.said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on(
            "request", lambda asked: None if asked.url.startswith(("file:", "blob:")) else self.said.append(asked.url)
        )


def open_record(chromium, folder, data, *, width=1280, dark=False, lang="en"):
    """The page of a record, drawn; `page.context.close()` when it is done with."""
    path = folder / "page.html"
    path.write_text(to_html(load_record(json.dumps(data)), lang=lang), encoding="utf-8")
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", offline=True
    )
    shown = Opened(context.new_page())
    shown.page.goto(path.as_uri())
    shown.page.wait_for_function("document.querySelectorAll('.chart').length == 0 || window.Plotly")
    return shown
