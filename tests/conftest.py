"""What all tests share: an empty place for the user's files, and the flag that rewrites golden files."""

import signal

import pytest


def pytest_addoption(parser):
    """`pytest --update-golden` writes what the code says now into the golden files, to be read in the diff."""
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files instead of comparing")


def pytest_configure():
    """What a shell starts in the background (`make test &`) ignores Ctrl-C, and so would all that the tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def update_golden(request):
    """Whether golden files are to be rewritten."""
    return request.config.getoption("--update-golden")


@pytest.fixture(autouse=True)
def _nobody_elses_files(tmp_path, monkeypatch):
    """No test reads or writes the real user's store, device file or settings."""
    for name in ("FLOPWATCH_STORE", "FLOPWATCH_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture(scope="module")
def chromium():
    """The system's Chromium, without a display; for a module, because its event loop is in the way of others."""
    from playwright.sync_api import sync_playwright

    from browser_page import CHROMIUM, OPTIONS

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, tmp_path):
    """Opens a record's page: `opened(data, width=375, dark=True, lang="zh")`; closed with the test."""
    from browser_page import open_record

    pages = []

    def open_page(data, **how):
        pages.append(open_record(chromium, tmp_path, data, **how))
        return pages[-1]

    yield open_page
    for shown in pages:
        shown.page.context.close()
