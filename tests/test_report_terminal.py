"""The terminal's drawing of a record: every kind, any width, numbers whole, nothing obeyed that a name says."""

import json
from pathlib import Path

import pytest
from rich.cells import cell_len

from flopwatch.record import Record, load_record
from flopwatch.report.content import fields
from flopwatch.report.content.fit import comparison
from flopwatch.report.messages import Words
from flopwatch.report.terminal import draw, render

RECORDS = sorted((Path(__file__).parent / "data" / "records").glob("*.json"))
HOSTILE = "</script><img src=x onerror=alert(1)>\x1b]0;owned\x07\x1b[31m"


def record_of(kind: str) -> Record:
    return load_record((Path(__file__).parent / "data" / "records" / f"{kind}.json").read_text(encoding="utf-8"))


def changed(kind: str, change) -> Record:
    """The fixture of that kind after `change` was made to its plain data."""
    data = json.loads((Path(__file__).parent / "data" / "records" / f"{kind}.json").read_text(encoding="utf-8"))
    change(data)
    return load_record(json.dumps(data))


@pytest.mark.parametrize("width", [41, 80, 97, 200])
@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_no_line_is_wider_than_the_terminal(path, width):
    """Whatever the kind and width, lines fit and nothing trails them."""
    lines = render(load_record(path.read_text(encoding="utf-8")), width=width).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert not [line for line in lines if line != line.rstrip()]


@pytest.mark.parametrize("width", [41, 80, 200])
def test_a_number_is_never_cut(width):
    """The exact FLOPs of the four GPTs stand whole on one line at any width: narrow tables change form instead."""
    text = render(record_of("count"), width=width)
    for flops in ("583,296,614,400", "1,653,902,147,584", "3,549,141,401,600", "7,013,407,129,600"):
        assert flops in text
    assert "…" not in text


def test_words_are_wrapped_and_never_cut():
    """At 80 columns the comparison's last column breaks between words; nothing falls off the edge."""
    narrow, wide = (render(record_of("compare"), width=width).split() for width in (80, 200))
    for word in ("beyond", "noise", "hardware_flops_per_s", "mfu.matmul.measured"):
        assert narrow.count(word) == wide.count(word) > 0


def test_a_job_without_a_terminal_sees_the_interval_of_a_change():
    """100 columns, as in a CI log, hold a benchmark's table with its interval, each figure on one line."""
    text = render(record_of("compare"), width=100)
    (tokens,) = [line for line in text.splitlines() if line.startswith("tokens_per_s") and "124" in line]
    assert tokens.split()[3:] == ["-9.09", "%", "-17.34", "..", "-0.53", "%", "beyond", "noise"]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_terminal_that_is_not_utf8_gets_ascii(path):
    """Boxes, bars and foreign names all become ASCII."""
    text = render(load_record(path.read_text(encoding="utf-8")), width=80, unicode=False)
    assert text.isascii()


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_colour_is_only_on_request(path):
    """No escape without it; with it the same text."""
    record = load_record(path.read_text(encoding="utf-8"))
    assert "\x1b" not in render(record, width=80)
    assert "\x1b[" in render(record, width=80, color=True)


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_control_characters_in_names_are_shown_and_not_obeyed(path):
    """A model that is named to drive the terminal is text."""

    def rename(data):
        for result in data["results"]:
            for key in ("model", "device", "name"):
                result[key] = HOSTILE

    data = json.loads(path.read_text(encoding="utf-8"))
    rename(data)
    text = render(load_record(json.dumps(data)), width=200)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "<img src=x" in text


def test_one_model_shows_every_part_with_its_share():
    """The head of gpt-small is 2*2048*768*50257 of 583,296,614,400 FLOPs: 27.1 %."""
    text = render(changed("count", lambda data: data.update(results=data["results"][:1])), width=100)
    (line,) = [line for line in text.splitlines() if line.startswith("head")]
    assert line.split()[1] == f"{2 * 2048 * 768 * 50257:,}"
    assert "27.1 %" in line
    assert "163,037,184" in text


def test_a_percentage_names_its_denominator_and_source():
    """MFU is 95.17 of 211.3 GFLOP/s = 45.0 %, and the unknown datasheet peak says why and what to do."""
    text = " ".join(render(record_of("bench"), width=100).split())
    assert "45.0 % of 211.3 GFLOP/s (fp32 matmul 2048 x 2048 x 2048, measured here)" in text
    assert "n/a of the datasheet peak: no published fp32 peak is known" in text
    assert "--peak-tflops" in text
    assert "2.07 s [2.04 s, 2.13 s], median [p10, p90] of 5 samples after 2 warm-up steps" in text


def test_a_share_above_100_percent_is_warned_of():
    """More than the peak cannot be: the figure is printed and doubted."""

    def above(data):
        data["results"][0]["utilization"][1]["fraction"] = 1.203

    assert "! MFU is 120.3 % of 211.3 GFLOP/s: above 100 % means" in render(changed("bench", above), width=120)


def test_a_fit_shows_prediction_beside_measurement_and_the_proof():
    """3,123,456,789 predicted against 3,087,654,321 bytes measured is 1.2 % too high; 2 ran and 3 did not."""
    text = " ".join(render(record_of("fit"), width=120).split())
    assert "Predicted batch 2, peak 2.909 GiB" in text
    assert "2.876 GiB at batch 2, 95.9 % of the limit; the prediction is 1.2 % too high" in text
    assert "batch 2 ran; batch 3 ran out of memory" in text
    assert "none: batch 1 needs 25.00 GiB (predicted)" in text
    assert "at least 8 (no larger one was tried: --max)" in text


def test_a_batch_that_was_only_predicted_does_not_look_like_one_that_ran():
    """`about` and `~` stand before it."""

    def unverify(data):
        data["results"][0]["verified"] = False
        data["results"][0]["next"] = {"batch": 3, "outcome": "not tested", "how": "not tested"}

    record = changed("fit", unverify)
    assert "about 2 (predicted only: nothing was run)" in render(record, width=100)
    assert "batch 2 ran" not in render(record, width=100)
    row = [cell if isinstance(cell, str) else cell.text for cell in comparison(record.typed_results(), Words()).rows[0]]
    assert row[2] == "~ 2"


def test_a_number_and_its_unit_stay_on_one_line():
    """No line begins with a unit, at any width."""
    for width in range(60, 110):
        for line in render(record_of("bench"), width=width).splitlines():
            assert not line.strip().startswith(("%", "GFLOP/s", "s ", "GiB"))


def test_operators_without_a_formula_are_listed():
    """What was not counted ranks with the total; a likely matmul is said to be one."""

    def add(data):
        data["results"] = data["results"][:1]
        data["results"][0]["uncounted"] = [
            {"op": "mine::fused_mlp", "calls": 1200, "looks_like_matmul": True},
            {"op": "aten::foo", "calls": 7, "looks_like_matmul": False},
        ]

    text = " ".join(render(changed("count", add), width=160).split())
    assert "Not counted mine::fused_mlp x 1,200 (its inputs look like a matmul), aten::foo x 7" in text


def test_a_kind_without_a_drawing_of_its_own_is_shown_field_by_field():
    """What a later flopwatch may put into a record is still readable: plain fields, lists of objects as tables."""
    result = {"model": "gpt-xl", "ceiling": {"fraction": 0.71, "known": None}, "rows": [{"name": "ffn", "flops": 1234}]}
    text = draw(fields.blocks([result], Words()), width=80, color=False, unicode=True)
    assert "ceiling.fraction  0.71" in text
    assert "ceiling.known     n/a" in text
    assert "1,234" in text
