"""Both notebooks run top to bottom, and cells that do not depend on the machine print what is committed."""

import importlib.util
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_a_notebook_runs_and_prints_the_committed_figures(language, monkeypatch):
    """In a fresh kernel and an empty folder; no cell fails or warns, and no cell loses its output."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads that wait for each other on a busy machine take minutes
    found = importlib.util.spec_from_file_location("make_notebooks", ROOT / "scripts" / "make_notebooks.py")
    script = importlib.util.module_from_spec(found)
    found.loader.exec_module(script)
    there = nbformat.read(script.FOLDER / script.LANGUAGES[language], as_version=4)
    done = script.execute(there)
    script.check_outputs(done)
    for cell, committed in zip(done.cells, there.cells, strict=True):
        if cell.cell_type != "code":
            continue
        if "exact" in cell.metadata.get("tags", []):
            assert script.printed(cell) == script.printed(committed), cell.id
        assert bool(script.printed(cell)) == bool(script.printed(committed)), cell.id
