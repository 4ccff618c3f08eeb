"""The record: one envelope, its schema, and what is refused as no record."""

import importlib.resources
import json
import math

import jsonschema
import msgspec
import pytest

from flopwatch.errors import InputError
from flopwatch.record import RESULT_TYPES, CountResult, FlopParts, ParamParts, json_schema, load_record, make_record

COUNT = CountResult(
    model="tiny",
    batch=3,
    seq_len=17,
    phase="forward",
    params=ParamParts(total=7, trainable=7, parts={"a": 7}),
    flops=FlopParts(forward=11, backward=0, recompute=0, total=11, per_token=11 / 51, parts={"a": 11}),
    convention="matmul",
    source="closed-form",
)


def _record(**changes):
    fields = {"environment": {"python": "3"}, "request": {"command": "flopwatch"}, "results": [COUNT]} | changes
    return make_record("count", **fields)


def test_a_record_survives_the_way_to_json_and_back():
    """What is written is what is read."""
    record = _record(warnings=["a", "b", "a"])
    assert load_record(record.to_json()) == record
    assert record.warnings == ["a", "b"]
    assert record.typed_results() == [COUNT]


def test_the_shipped_schema_is_the_one_of_the_structs(update_golden):
    """The file in the package is made by `pytest --update-golden` and never by hand."""
    shipped = importlib.resources.files("flopwatch.record").joinpath("flopwatch-1.schema.json")
    text = json.dumps(json_schema(), indent=1) + "\n"
    if update_golden:
        shipped.write_text(text, encoding="utf-8")
    assert shipped.read_text(encoding="utf-8") == text


def test_the_schema_accepts_a_record_and_refuses_a_broken_one():
    """It checks the results of each kind, not only the envelope."""
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    good = _record().to_dict()
    jsonschema.validate(good, schema)
    for change in ({"kind": "cuont"}, {"schema": "flopwatch/9"}, {"results": [{"model": "x"}]}, {"results": {}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(good | change, schema)


def test_every_kind_of_result_is_in_the_schema():
    """A new kind cannot be forgotten."""
    assert {result.__name__ for result in RESULT_TYPES.values()} <= set(json_schema()["$defs"])


@pytest.mark.parametrize("text", ["", "[]", "{}", "nope", '{"schema": "flopwatch/2"}', "\x00", '{"schema": 1}'])
def test_what_is_no_record_is_refused_by_name(text):
    """One line naming the file, no traceback."""
    with pytest.raises(InputError, match=r"^run\.json is not a flopwatch record"):
        load_record(text, name="run.json")


def test_a_figure_that_is_not_a_number_never_reaches_json():
    """Unknown is null; NaN in a record is our own mistake and is not written."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        _record(environment={"x": math.nan}).to_json()


def test_a_result_shows_its_figures_in_a_notebook_and_as_markdown():
    """Every figure under the name that it has in the record; nothing in it can be markup."""
    odd = msgspec.structs.replace(COUNT, model="<b>|tiny")
    assert "| flops.forward | 11 |" in odd.to_markdown()
    assert "| model | <b>\\|tiny |" in odd.to_markdown()
    assert "| params.active | n/a |" in odd.to_markdown()
    assert "<td>&lt;b&gt;|tiny</td>" in odd._repr_html_()
    assert json.loads(odd.to_json()) == odd.to_dict()


def test_a_count_is_read_by_module_and_by_operator():
    """Rows sum to the total at any depth; a closed form has parts, and no operators."""
    modules = {"a.0.x": {"forward": 5, "backward": 7}, "a.1": {"forward": 11}, "b": {"backward": 13, "recompute": 2}}
    traced = msgspec.structs.replace(COUNT, modules=modules, operators=[{"op": "mm", "forward": 16, "backward": 20}])
    assert traced.by_module() == {"a.0.x": 12, "a.1": 11, "b": 13}
    assert traced.by_module(depth=1) == {"a": 23, "b": 13}
    assert traced.by_operator() == {"mm": 36}
    assert COUNT.by_module() == {"a": 11}
    assert COUNT.total == 11
    with pytest.raises(InputError, match="has no operators"):
        COUNT.by_operator()
