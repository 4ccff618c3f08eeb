"""The options that commands share. A command takes only those that it honours."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from flopwatch import units, workload
from flopwatch.errors import InputError


def _by(parse: Callable[[str], int]) -> Callable[[Any, Sequence[Any]], int]:
    """A converter for cyclopts from one of the parsers in units.py."""

    def convert(_type: Any, tokens: Sequence[Any]) -> int:
        try:
            return parse(tokens[0].value)
        except InputError as error:
            name = tokens[0].keyword or tokens[0].source  # a flag, or the file it came from
            raise InputError(f"{name}: {error.message}", hint=error.hint) from error

    return convert


Count = Annotated[int, Parameter(converter=_by(units.parse_count))]
SeqLen = Annotated[int, Parameter(converter=_by(units.parse_seq_len))]
Bytes = Annotated[int, Parameter(converter=_by(units.parse_bytes))]


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Changes to the named model."""

    set: Annotated[tuple[str, ...], Parameter(name="--set", negative="", consume_multiple=False)] = ()
    """Change a field of the model: `--set n_layers=24` (repeatable)."""

    def changes(self) -> dict[str, str]:
        """The changes as field -> text; raises InputError for one that is not NAME=VALUE."""
        pairs = {}
        for text in self.set:
            name, sign, value = text.partition("=")
            if not sign or not name.strip():
                raise InputError(f"--set {text!r} is not NAME=VALUE", hint="write it like --set n_layers=24")
            pairs[name.strip()] = value.strip()
        return pairs


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """Where measurements are kept."""

    store: Path | None = None
    """The results store, an SQLite file (else FLOPWATCH_STORE, else the user's data folder)."""


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where the answer goes and how it looks."""

    json: Annotated[bool, Parameter(negative="")] = False
    """Print the record as one JSON document."""
    markdown: Annotated[bool, Parameter(negative="")] = False
    """Print tables in Markdown, for a pull request or a note."""
    csv: Annotated[bool, Parameter(negative="")] = False
    """Print one row a result, raw figures under their names in the record."""
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None
    """Write the record (JSON) to this file too."""
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False
    """No progress and no notes on stderr (errors stay)."""

    def __post_init__(self) -> None:
        forms = {"--json": self.json, "--markdown": self.markdown, "--csv": self.csv}
        wanted = [name for name, is_wanted in forms.items() if is_wanted]
        if len(wanted) > 1:
            raise InputError(f"{' and '.join(wanted)} contradict each other", hint="give one of them")


DTypeOption = Annotated[workload.DType | None, Parameter(name="--dtype")]
