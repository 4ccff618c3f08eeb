"""`compare --fail-if` at its edges: the last digit, a condition that no change meets, figures that became unknown."""

import json
from pathlib import Path

import pytest

from flopwatch.cli import run

RECORDS = Path(__file__).parent / "data" / "records"


def _record(kind):
    return json.loads((RECORDS / f"{kind}.json").read_text(encoding="utf-8"))


def _compared(tmp_path, before, after, *conditions):
    """The exit code of the gate on two records."""
    for name, data in (("a.json", before), ("b.json", after)):
        (tmp_path / name).write_text(json.dumps(data), encoding="utf-8")
    asked = [part for condition in conditions for part in ("--fail-if", condition)]
    return run(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), *asked])


@pytest.mark.parametrize(
    ("before", "after", "condition", "code"),
    [
        (1000.0, 950.0, "tokens_per_s<-5%", 0),  # as floats 950 / 1000 - 1 is -0.05000000000000004
        (1000.0, 949.0, "tokens_per_s<-5%", 3),
        (1000.0, 1003.0, "tokens_per_s>0.3%", 0),
        (1000.0, 1003.5, "tokens_per_s>0.3%", 3),
    ],
)
def test_a_change_of_just_the_percentage_is_not_past_it(tmp_path, before, after, condition, code):
    """`<-5%` is more than 5 %."""
    records = [_record("mfu"), _record("mfu")]
    for data, tokens_per_s in zip(records, (before, after), strict=True):
        data["results"][0]["tokens_per_s"] = tokens_per_s
    assert _compared(tmp_path, *records, condition) == code


def test_one_flop_more_of_many_fails_the_gate(tmp_path):
    """2 in 1.4e17, a step of a 70B model: the quotient is 1.0 in floats."""
    records = [_record("count"), _record("count")]
    for data, more in zip(records, (0, 2), strict=True):
        data["results"][0]["flops"]["total"] = 140_000_000_000_000_000 + more
    assert _compared(tmp_path, *records, "flops>0%") == 3
    assert _compared(tmp_path, records[1], records[0], "flops>0%") == 0


@pytest.mark.parametrize(
    ("kind", "condition"),
    [("count", "flops>-10%"), ("count", "flops<5%"), ("bench", "tokens_per_s<5%"), ("bench", "step_s>-5%")],
)
def test_a_gain_that_was_asked_for_and_did_not_come_fails_the_gate(tmp_path, capsys, kind, condition):
    """No change at all meets these: that it may be noise is no excuse. An exact figure has no noise."""
    assert _compared(tmp_path, _record(kind), _record(kind), condition) == 3
    assert f"{condition} is met by" in capsys.readouterr().err


@pytest.mark.parametrize("condition", ["peak_memory_bytes>5%", "peak_memory_bytes<-5%"])
def test_a_figure_that_became_unknown_cannot_be_judged(tmp_path, capsys, condition):
    """A peak that is n/a is no smaller peak: a gate on memory must not pass for it."""
    after = _record("bench")
    after["results"][0]["peak_memory_bytes"] = None
    assert _compared(tmp_path, _record("bench"), after, condition) == 3
    assert f"{condition} cannot be judged: gpt-small train peak_memory_bytes: " in capsys.readouterr().err
    assert _compared(tmp_path, _record("bench"), after, "tokens_per_s<-5%") == 0


def test_a_percentage_past_every_float_is_malformed(tmp_path):
    """400 digits are no percentage."""
    assert _compared(tmp_path, _record("count"), _record("count"), f"flops>{'9' * 400}%") == 2
