"""Pages of the commands are what the commands say now, and the site's menu leaves none out."""

import importlib.util
from pathlib import Path

import pytest
import yaml

from flopwatch.cli import COMMANDS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def made():
    """The pages as the script would write them now."""
    found = importlib.util.spec_from_file_location("make_command_docs", ROOT / "scripts" / "make_command_docs.py")
    script = importlib.util.module_from_spec(found)
    found.loader.exec_module(script)
    return script.pages()


def test_every_command_has_its_page(made):
    """One file a command and the overview; no page of a command that is gone."""
    assert {path.name for path in (DOCS / "commands").iterdir()} == set(made)
    assert {f"{name}.md" for name in COMMANDS} == set(made) - {"index.md"}


def test_pages_of_commands_are_what_the_commands_say_now(made):
    """`python scripts/make_command_docs.py` writes them anew."""
    stale = [name for name, text in made.items() if (DOCS / "commands" / name).read_text(encoding="utf-8") != text]
    assert stale == [], f"run `python scripts/make_command_docs.py`: {stale}"


def test_a_page_shows_every_option_and_a_real_answer(made):
    """Options of shared groups too, and the output of a command that measures nothing: the notebook's MFU of gpt-xl."""
    assert all(f"`{name}`" in made["fit.md"] for name in ("--limit", "--seq", "--set", "--resume", "--json", "-o"))
    assert "MFU              0.8113 (81.1 %) of 77.97 TFLOP/s" in made["mfu.md"]


def test_the_menu_of_the_site_has_every_page():
    """Pages under docs/ are all in mkdocs.yml, but for docs/records, which is data of the README."""

    def files(entry):
        if isinstance(entry, str):
            return {entry}
        inside = entry.values() if isinstance(entry, dict) else entry
        return set().union(*map(files, inside))

    listed = files(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if "records" not in path.parts}
    assert listed == pages | {"flops_analysis.md", "flops_analysis.zh-CN.md"}
