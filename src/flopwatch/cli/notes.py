"""What makes results less sure, as the warnings of their record."""

from __future__ import annotations

from collections.abc import Sequence

from flopwatch.record import BenchResult, FitResult, MemoryResult


def notes_of(results: Sequence[BenchResult | FitResult | MemoryResult], *, is_named: bool | None = None) -> list[str]:
    """The notes of all results; each says whose it is where there are several (`is_named`: or whatever there is)."""
    names = len(results) > 1 if is_named is None else is_named
    return [
        f"{result.model} {result.phase}: {note}" if names else note
        for result in results
        for note in result.details.get("notes", ())
    ]
