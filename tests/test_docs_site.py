"""The site builds without a warning, its links lead somewhere, and a browser fetches nothing from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FETCHED = re.compile(
    r"<(?:script|img|iframe)[^>]*\bsrc=\"(https?:)?//|<link[^>]*rel=\"(?:stylesheet|preconnect)\"[^>]*href=\"https?:"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder that `mkdocs build --strict` wrote."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_has_the_commands_the_notebooks_and_the_example(site):
    """A page for each command and each language of the notebook; the example that a page links to lies beside them."""
    assert (site / "commands" / "fit.html").is_file()
    assert "How many FLOPs is the product" in (site / "flops_analysis.html").read_text(encoding="utf-8")
    assert "模型算力利用率" in (site / "flops_analysis.zh-CN.html").read_text(encoding="utf-8")
    assert (site / "repository" / "examples" / "train_with_meter.py").is_file()
    assert (site / "repository" / "notebooks" / "flops_analysis.ipynb").is_file()
    assert not (site / "records").exists()


@pytest.mark.slow
def test_the_site_fetches_nothing_from_elsewhere(site):
    """No script, style, picture or font of another server."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    assert [page.name for page in pages if FETCHED.search(page.read_text(encoding="utf-8"))] == []
