"""Presets: the geometry of well-known models by name, with the source it stands in (presets.toml)."""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
from pathlib import Path
from typing import Any, Final

_FILE: Final = Path(__file__).with_name("presets.toml")
_HEADER: Final = re.compile(r'^\["?([^"\]\n]+)"?\]', re.MULTILINE)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A well-known model: the fields of its spec that are not derived, and where they stand."""

    name: str
    source: str
    fields: dict[str, Any]


def preset_names() -> tuple[str, ...]:
    """The names of all presets, families together, in the order of presets.toml."""
    return tuple(_tables())


def find_preset(name: str) -> Preset | None:
    """The preset of that name, upper and lower case alike; None when there is none."""
    table = _tables().get(name.lower())
    if table is None:
        return None
    fields = tomllib.loads(table)
    return Preset(name=name.lower(), source=fields.pop("source"), fields=fields)


@functools.cache
def _tables() -> dict[str, str]:
    """Name -> the TOML text of its table: one model is asked for, and parsing all of them costs more than a count."""
    text = _FILE.read_text(encoding="utf-8")
    headers = list(_HEADER.finditer(text))
    ends = [header.start() for header in headers[1:]] + [len(text)]
    return {header.group(1): text[header.end() : end] for header, end in zip(headers, ends, strict=True)}
