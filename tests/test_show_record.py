"""`flopwatch show`: any record that was made before, in any form, from the store or from a file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flopwatch.cli import run
from flopwatch.record import load_record
from flopwatch.report.terminal import render
from flopwatch.store import Store

RECORDS = Path(__file__).parent / "data" / "records"


@pytest.fixture
def store(tmp_path):
    """A store with a finished report (run 1) and an interrupted fit that measured one thing (run 2)."""
    path = tmp_path / "runs.sqlite"
    with Store(path) as opened:
        first = opened.start_run("report", request={}, environment={}, resume_key="a")
        opened.end_run(first, "done", record=json.loads((RECORDS / "report.json").read_text(encoding="utf-8")))
        second = opened.start_run("fit", request={}, environment={}, resume_key="b")
        opened.put_item("probe", "batch 1", {"peak_bytes": 7}, run_id=second)
        opened.end_run(second, "interrupted")
    return path


def test_a_stored_record_is_shown_as_it_was_made(store, capsys):
    """--json gives back the record to the last digit."""
    assert run(["show", "1", "--store", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((RECORDS / "report.json").read_text(encoding="utf-8"))


def test_a_record_in_a_file_is_drawn_like_one_of_the_store(capsys):
    """A file written with -o on another machine renders too."""
    path = RECORDS / "fit.json"
    assert run(["show", str(path)]) == 0
    assert capsys.readouterr().out.strip() == render(load_record(path.read_bytes()), width=100).strip()


def test_a_reader_that_stops_early_loses_no_page(store, tmp_path):
    """`show 1 --html page.html | true` ends quietly, and the page is there."""
    page = tmp_path / "page.html"
    command = [sys.executable, "-c", "from flopwatch.cli import main; main()", "show", "1", "--html", str(page)]
    with subprocess.Popen(
        [*command, "--store", str(store), "--quiet"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as shown:
        shown.stdout.close()
        assert shown.stderr.read() == ""
        assert shown.wait() == 0
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["9"], 2, "no run 9 in"),
        (["99999999999999999999999"], 2, "no run has the number"),
        (["2"], 1, "run 2 (fit) is interrupted and has no record: 1 of its measurements are kept; go on"),
        (["nowhere.json"], 2, "'nowhere.json' is no number of a run and no file that can be read"),
        (["1", "--json", "--csv"], 2, "--json and --csv contradict each other"),
    ],
)
def test_what_cannot_be_shown_is_one_line(store, capsys, arguments, code, says):
    """Value, rule and way out, and the exit code of its kind."""
    assert run(["show", *arguments, "--store", str(store)]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err
    assert captured.err.count("\n") == 1


def test_a_file_that_is_no_record_is_refused(tmp_path, capsys):
    """The file is named."""
    path = tmp_path / "other.json"
    path.write_text('{"schema": "else/9"}', encoding="utf-8")
    assert run(["show", str(path)]) == 2
    assert f"{path} is not a flopwatch record" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["show"], ["compare", str(RECORDS / "count.json")]])
def test_a_record_that_was_changed_by_hand_is_bad_input_in_one_line(tmp_path, capsys, command):
    """The envelope is right and a figure is not: which one stands in the message, and there is no traceback."""
    data = json.loads((RECORDS / "count.json").read_text(encoding="utf-8"))
    data["results"][0]["flops"]["total"] = "many"
    (tmp_path / "changed.json").write_text(json.dumps(data))
    assert run([*command, str(tmp_path / "changed.json")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "flops.total" in err
