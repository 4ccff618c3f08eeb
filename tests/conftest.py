"""What all tests share: an empty place for the user's files, and the flag that rewrites golden files."""

import pytest


def pytest_addoption(parser):
    """`pytest --update-golden` writes what the code says now into the golden files, to be read in the diff."""
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files instead of comparing")


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
