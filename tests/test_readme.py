"""README shows what the commands print: deterministic ones are run, measured ones are drawn from their kept record."""

import re
import shlex
from pathlib import Path

import pytest

from flopwatch.cli import run
from flopwatch.record import load_record
from flopwatch.report.terminal import render

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("README*.md"))
BLOCK = re.compile(
    r"(?:<!-- record: (?P<record>\S+) -->\n)?```console\n\$ (?P<command>[^\n]+)\n(?P<output>.*?)```", re.DOTALL
)


def _blocks():
    for page in PAGES:
        for found in BLOCK.finditer(page.read_text(encoding="utf-8")):
            if found["command"].startswith("flopwatch"):
                case = (page, found["command"], found["output"], found["record"])
                yield pytest.param(*case, id=f"{page.name}: {found['command']}")


def _printed(command, record, capsys):
    """What the command prints: drawn from the record of that very command, or printed anew."""
    if record is None:
        assert run(shlex.split(command)[1:]) == 0
        return capsys.readouterr().out
    kept = load_record((ROOT / record).read_text(encoding="utf-8"), name=record)
    assert kept.request["command"].startswith(command)
    return render(kept, width=100)


@pytest.mark.parametrize(("page", "command", "output", "record"), list(_blocks()))
def test_a_table_in_the_readme_is_what_the_command_prints(page, command, output, record, capsys, update_golden):
    """A measured table is drawn from a kept record, any other is printed anew; `--update-golden` writes them in."""
    printed = _plain(_printed(command, record, capsys))
    if update_golden and printed != _plain(output):
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace(f"$ {command}\n{output}", f"$ {command}\n{printed}\n"), encoding="utf-8")
        return
    assert printed == _plain(output)


def _plain(text):
    """Lines without trailing blanks, which editors take away."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def test_the_readme_shows_measured_and_counted_tables():
    """The blocks are found: a change of form cannot switch this file off."""
    found = list(BLOCK.finditer((ROOT / "README.md").read_text(encoding="utf-8")))
    assert len([block for block in found if block["record"]]) >= 2
    assert len([block for block in found if not block["record"]]) >= 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_the_readme_points_to_is_there(page):
    """Links and pictures lead somewhere."""
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (ROOT / target).exists(), target


CODE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LANGUAGES = ("README.md", "README.zh-CN.md")


def _both(find):
    """What `find` makes of the English and of the Chinese text."""
    return [find((ROOT / name).read_text(encoding="utf-8")) for name in LANGUAGES]


def test_both_readmes_show_the_same_commands_and_outputs():
    """Block by block; a shell comment is the one thing in them that is translated."""

    def find(text):
        return [(kind, code if kind else re.sub(r"\s+# .*", "", code)) for kind, code in CODE.findall(text)]

    english, chinese = _both(find)
    assert len(english) == 10
    assert chinese == english


@pytest.mark.parametrize(
    "pattern",
    [
        r"^#+(?= )",
        r"^\|(?=.*\|$)",
        r"\]\((?!README)([^)]+)\)",
        r"`[^`\n]+`",
        r"(?<![\w.])\d+(?:[,.]\d+)*(?!\w)",
        r"^<!-- .*",
    ],
    ids=["headings", "rows of tables", "links and pictures", "code in a line", "numbers", "records"],
)
def test_both_readmes_are_peers(pattern):
    """What one says the other says: as many headings and rows, the same targets, names and figures."""
    english, chinese = _both(lambda text: sorted(re.findall(pattern, CODE.sub("", text), re.MULTILINE)))
    assert english
    assert chinese == english


def test_each_readme_leads_to_the_other():
    """Before the first paragraph."""
    for text, other in zip(_both(str), reversed(LANGUAGES), strict=True):
        assert f"]({other})" in text.splitlines()[2]
