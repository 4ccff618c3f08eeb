"""Every kind of record that was ever shipped renders in every form, and holds to the schema."""

import csv
import io
import json
from pathlib import Path

import jsonschema
import pytest

from flopwatch.cli.options import OutputOptions
from flopwatch.errors import InputError
from flopwatch.record import RESULT_TYPES, json_schema, load_record
from flopwatch.report.csv import to_csv
from flopwatch.report.latex import to_latex
from flopwatch.report.markdown import to_markdown

RECORDS = sorted((Path(__file__).parent / "data" / "records").glob("*.json"))
PATHS = pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)


def test_there_is_a_kept_record_of_every_kind():
    """A kind that is added needs a fixture, so that it renders for ever."""
    assert set(RESULT_TYPES) <= {path.stem for path in RECORDS}


@PATHS
def test_a_kept_record_validates_against_the_schema(path):
    """The fixtures are what the schema says a record is."""
    jsonschema.Draft202012Validator(json_schema()).validate(json.loads(path.read_text(encoding="utf-8")))


@PATHS
def test_markdown_tables_have_as_many_cells_in_every_row(path):
    """A stray bar in a cell would shift a table's columns."""
    text = to_markdown(load_record(path.read_text(encoding="utf-8")))
    widths = []
    for line in text.splitlines():
        n_bars = line.replace(r"\|", "").count("|") if line.startswith("|") else 0
        if n_bars and widths and widths[-1]:
            assert n_bars == widths[-1], line
        widths.append(n_bars)
    assert any(widths) or "- " in text


def test_markdown_shows_a_hostile_name_as_text():
    """Markup, links and images of a name are escaped."""
    data = json.loads((RECORDS[0].parent / "bench.json").read_text(encoding="utf-8"))
    data["results"][0]["model"] = "a|b <img src=x> [x](y) `c` **d**"
    line = to_markdown(load_record(json.dumps(data))).splitlines()[0]
    assert line.startswith(r"### a\|b \<img src=x\> \[x\](y) \`c\` \*\*d\*\*: train")


@pytest.mark.parametrize("draw", [to_markdown, to_latex])
def test_a_note_that_is_a_warning_too_is_said_once(draw):
    """One document has both; what is only a warning is still said."""
    data = json.loads((RECORDS[0].parent / "bench.json").read_text(encoding="utf-8"))
    data["results"][0]["details"]["notes"] = ["alpha differs"]
    data["warnings"] = ["alpha differs", "beta differs"]
    text = draw(load_record(json.dumps(data)))
    assert (text.count("alpha differs"), text.count("beta differs")) == (1, 1)


@PATHS
def test_csv_has_one_row_a_result_and_equal_columns(path):
    """A report's counts, fits and benchmarks are rows of their own."""
    record = load_record(path.read_text(encoding="utf-8"))
    rows = list(csv.DictReader(io.StringIO(to_csv(record))))
    inner = [item for r in record.results for name in ("counts", "fits", "benches") for item in r.get(name, [])]
    assert len(rows) == len(inner if record.kind == "report" else record.results)
    assert all(None not in row and None not in row.values() for row in rows)


def test_csv_keeps_figures_to_the_last_digit():
    """Raw integers under the record's own names."""
    record = load_record((RECORDS[0].parent / "count.json").read_text(encoding="utf-8"))
    rows = list(csv.DictReader(io.StringIO(to_csv(record))))
    assert [int(row["flops.total"]) for row in rows] == [
        583_296_614_400,
        1_653_902_147_584,
        3_549_141_401_600,
        7_013_407_129_600,
    ]


def test_csv_names_a_percentage_by_its_denominator():
    """An unknown one is empty, not zero."""
    record = load_record((RECORDS[0].parent / "bench.json").read_text(encoding="utf-8"))
    (row,) = csv.DictReader(io.StringIO(to_csv(record)))
    assert row["mfu.matmul.datasheet.fraction"] == ""
    assert float(row["mfu.matmul.measured.fraction"]) == pytest.approx(0.4504, abs=1e-4)


def test_csv_of_a_comparison_has_its_changes():
    """Each figure before and after, its change and interval; what is unknown is empty."""
    record = load_record((RECORDS[0].parent / "compare.json").read_text(encoding="utf-8"))
    for result, row in zip(record.results, csv.DictReader(io.StringIO(to_csv(record))), strict=True):
        for change in result["changes"]:
            name, interval = change["figure"], change["interval_fraction"]
            assert row[f"{name}.before"] == ("" if change["before"] is None else str(change["before"]))
            assert row[f"{name}.change_fraction"] == str(change["change_fraction"])
            assert row[f"{name}.low_fraction"] == ("" if interval is None else str(interval[0]))
            assert row[f"{name}.beyond_noise"] == {None: "", True: "true", False: "false"}[change["beyond_noise"]]


def test_two_forms_of_output_at_once_are_refused():
    """--json and --csv cannot both have standard output."""
    with pytest.raises(InputError, match=r"--json and --csv contradict each other; give one of them"):
        OutputOptions(json=True, csv=True)
