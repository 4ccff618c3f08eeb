"""Where a warning goes: to stderr, unless whoever reads stderr has just read it among the answer's notes."""

import json
import re
import sys
from pathlib import Path

import pytest

from flopwatch.cli.notes import notes_of
from flopwatch.cli.options import OutputOptions
from flopwatch.cli.output import emit
from flopwatch.record import MemoryResult, load_record

RECORDS = Path(__file__).parent / "data" / "records"
NOTED = "3 of 9 samples lie far out; the median does not feel them, however long a line a terminal breaks it into"
ELSEWHERE = "the clock went backwards"


@pytest.mark.parametrize("model", ["", "gpt-small train: "], ids=["one model", "several"])
@pytest.mark.parametrize(
    ("is_terminal", "options", "n_noted", "n_elsewhere"),
    [(True, {}, 1, 1), (False, {}, 2, 1), (True, {"json": True}, 2, 0), (False, {"json": True}, 3, 1)],
    ids=["terminal", "file", "JSON on the terminal", "JSON in a file"],
)
def test_a_warning_that_is_on_the_screen_is_not_said_twice(
    model, is_terminal, options, n_noted, n_elsewhere, capsys, monkeypatch
):
    """A note of the result that is a warning of the record too: JSON has both of them by itself."""
    fields = json.loads((RECORDS / "bench.json").read_text(encoding="utf-8"))
    fields["results"][0]["details"]["notes"] = [NOTED]
    fields["warnings"] = [model + NOTED, ELSEWHERE]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    monkeypatch.setenv("FORCE_COLOR", "1")
    emit(load_record(json.dumps(fields)), OutputOptions(**options))
    captured = capsys.readouterr()
    read = re.sub(r"\x1b\[\d*(;\d+)*m", "", captured.out + captured.err)
    assert " ".join(read.split()).count(NOTED) == n_noted
    assert captured.err.count(ELSEWHERE) == n_elsewhere


def test_a_note_of_one_of_several_models_says_whose_it_is():
    """`bench gpt-small gpt-medium`: which of the two was disturbed."""
    one, two = (
        MemoryResult(model=name, peak_bytes=7, parts={}, assumptions=[], phase="train", details={"notes": notes})
        for name, notes in (("gpt-small", []), ("gpt-medium", [NOTED]))
    )
    assert notes_of([one, two]) == [f"gpt-medium train: {NOTED}"]
    assert notes_of([two]) == [NOTED]
