"""JSON Schema of the record, made from the structs themselves so that the two cannot differ."""

from __future__ import annotations

from typing import Any

import msgspec

from flopwatch.record.envelope import Record
from flopwatch.record.results import RESULT_TYPES


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of every record: the envelope, and the results of each kind."""
    (envelope,), definitions = msgspec.json.schema_components([Record], ref_template="#/$defs/{name}")
    for kind, result in RESULT_TYPES.items():
        (reference,), more = msgspec.json.schema_components([result], ref_template="#/$defs/{name}")
        definitions |= more
        rule = {
            "if": {"properties": {"kind": {"const": kind}}},
            "then": {"properties": {"results": {"type": "array", "items": reference}}},
        }
        definitions["Record"].setdefault("allOf", []).append(rule)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **envelope, "$defs": definitions}
