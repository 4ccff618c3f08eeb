"""The document of a record: its results as headings, figures and tables, in words; one file a kind."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Final

from flopwatch.record import Record
from flopwatch.report.document import Block
from flopwatch.report.messages import Words

_KINDS: Final = ("count", "memory", "fit", "bench", "peak", "devices", "mfu", "doctor", "roofline", "report", "compare")


def blocks_of(record: Record, words: Words) -> list[Block]:
    """Everything that is shown of a record, in order; a kind without a drawing of its own is shown field by field."""
    name = record.kind if record.kind in _KINDS else "fields"
    module = importlib.import_module(f"flopwatch.report.content.{name}")  # a count pays for no other kind
    results: Sequence[Any] = record.typed_results()
    blocks: list[Block] = module.blocks(results, words)
    return blocks
