"""The envelope around every result: schema, kind, time, method, environment, request, results, warnings."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from flopwatch.errors import InputError
from flopwatch.record.results import RESULT_TYPES

SCHEMA: Final = "flopwatch/1"
METHOD: Final = 1
"""Changes when the way of measuring changes; two methods are never compared."""

Kind = Literal["count", "memory", "fit", "bench", "peak", "devices", "mfu", "roofline", "report", "compare", "doctor"]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One run as it is kept, printed and drawn. `results` has one entry a model (or device)."""

    schema: Literal["flopwatch/1"] = SCHEMA
    kind: Kind
    created: str
    method: int = METHOD
    environment: dict[str, Any]
    request: dict[str, Any]
    results: list[dict[str, Any]]
    warnings: list[str] = []

    def to_dict(self) -> dict[str, Any]:
        """The record as plain data."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        return data

    def to_json(self, *, ascii_only: bool = False) -> str:
        """The record as one indented JSON document (no NaN: an unknown figure is null)."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=ascii_only, allow_nan=False)

    def typed_results(self) -> list[Any]:
        """The results as the structs of their kind (plain dictionaries for a kind without one).

        Raises InputError for results that are not of that kind, as in a record that was changed by hand.
        """
        of_kind = RESULT_TYPES.get(self.kind)
        if of_kind is None:
            return list(self.results)
        try:
            return [msgspec.convert(r, of_kind) for r in self.results]
        except msgspec.ValidationError as error:
            raise InputError(
                f"the results of this {self.kind} record are not what flopwatch writes: {error}",
                hint="give a file written with -o, unchanged",
            ) from error


def make_record(
    kind: Kind,
    *,
    environment: dict[str, Any],
    request: dict[str, Any],
    results: Sequence[msgspec.Struct | dict[str, Any]],
    warnings: Sequence[str] = (),
) -> Record:
    """The record of `results`, stamped with the time in UTC; equal warnings are kept once."""
    return Record(
        kind=kind,
        created=dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        environment=environment,
        request=request,
        results=[msgspec.to_builtins(result) for result in results],
        warnings=list(dict.fromkeys(warnings)),
    )


def load_record(text: str | bytes, *, name: str = "record") -> Record:
    """The record in a JSON document; raises InputError naming `name` when it is none."""
    try:
        return msgspec.json.decode(text, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{name} is not a flopwatch record ({error})", hint="give a file written with -o") from error
