"""Figures as words: a percentage with its denominator and source, an unknown with its reason, a signed error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from flopwatch import units
from flopwatch.record import UtilizationRow
from flopwatch.report.document import Block, Fact, Note
from flopwatch.report.messages import Words

PEAK_KINDS: Final = ("datasheet", "user", "measured", "notebook")


def source_of(row: UtilizationRow, words: Words) -> str:
    """Where a denominator comes from: `A100 SXM bf16 dense, datasheet`; the kind is said once."""
    kind = words(f"kind.{row.peak_kind}")
    if not row.peak_source:
        return kind
    source = words.said(row.peak_source)
    if row.peak_kind in row.peak_source or kind in source:
        return source
    return words("use.source", source=source, kind=kind)


def utilization_text(row: UtilizationRow, words: Words) -> str:
    """`21.3 % of 312.0 TFLOP/s (A100 SXM bf16 dense, datasheet)`, or n/a with its reason."""
    if row.fraction is None or row.peak_flops_per_s is None:
        reason = words("use.no_reason") if row.reason is None else words.said(row.reason)
        return words("use.unknown", kind=words(f"kind.{row.peak_kind}"), reason=reason)
    what = peak_text(row.peak_flops_per_s, source_of(row, words), words)
    return words("use.share", percent=units.format_percent(row.fraction), what=what)


def peak_text(flops_per_s: float, source: str, words: Words) -> str:
    """A denominator with its source: `312.0 TFLOP/s (A100 SXM bf16 dense, datasheet)`."""
    return words("aside", text=units.format_rate(flops_per_s), aside=source)


def utilization_facts(rows: Sequence[UtilizationRow], words: Words) -> list[Fact]:
    """One line a ratio and convention, all its denominators in it."""
    several = len({row.convention for row in rows}) > 1
    lines: dict[tuple[str, str], list[UtilizationRow]] = {}
    for row in sorted(rows, key=lambda row: PEAK_KINDS.index(row.peak_kind)):
        lines.setdefault((row.name, row.convention), []).append(row)
    facts = []
    for (name, convention), group in sorted(lines.items(), key=lambda item: item[0][0] != "mfu"):
        same = name == "hfu" and _shares(group) == _shares(lines.get(("mfu", convention), []))
        value = words("use.same") if same else words("list.clauses").join(utilization_text(row, words) for row in group)
        label = words("mfu.beside", name=name.upper(), convention=convention) if several else name.upper()
        facts.append(Fact(label=label, value=value, style="" if same else "strong"))
    return facts


def _shares(rows: Sequence[UtilizationRow]) -> dict[str, float]:
    return {row.peak_kind: row.fraction for row in rows if row.fraction is not None}


def above_peak_notes(rows: Iterable[UtilizationRow], words: Words) -> list[Note]:
    """A warning for every ratio above 1."""
    return [
        Note(
            text=words(
                "use.above",
                name=row.name.upper(),
                percent=units.format_percent(row.fraction),
                peak=units.format_rate(row.peak_flops_per_s),
            ),
            style="warn",
        )
        for row in rows
        if row.fraction is not None and row.peak_flops_per_s is not None and row.fraction > 1
    ]


def short_use(rows: Sequence[UtilizationRow], name: str, kind: str, words: Words) -> str:
    """The bare percentage of a table's cell (its column names the denominator), n/a where it is unknown."""
    for row in rows:
        if row.name == name and row.peak_kind == kind and row.fraction is not None:
            return units.format_percent(row.fraction)
    return words("na")


def notes_of(details: Mapping[str, Any], words: Words) -> list[Note]:
    """What a result says makes its figures less sure, one line each."""
    return [
        Note(text=words("note", note=words.said(note)), style="dim") for note in dict.fromkeys(details.get("notes", ()))
    ]


def warnings_beside(blocks: Iterable[Block], warnings: Iterable[str], words: Words) -> list[str]:
    """The warnings of a record, in the reader's language, that are not already notes among its blocks."""
    notes = {block.text for block in blocks if isinstance(block, Note)}
    said = [words.said(warning) for warning in warnings]
    return [text for text in said if words("note", note=text) not in notes]


def convention_text(name: str, details: Mapping[str, Any], words: Words) -> str:
    """The convention by name, and in words where the record has them (`title` and `formula` of its details)."""
    if "title" not in details or "formula" not in details:
        return words("count.convention_value", convention=name)
    return words(
        "count.convention_titled",
        convention=name,
        title=words.said(details["title"]),
        formula=words.said(details["formula"]),
    )


def error_text(predicted: float, measured: float) -> str:
    """How far a prediction is from what was measured, with its sign: `+1.4 %` is too high."""
    return f"{100 * (predicted - measured) / measured:+z.1f} %"


def rate_text(tokens_per_s: float) -> str:
    """Tokens a second: whole numbers with separators, three digits below 100."""
    return f"{tokens_per_s:,.0f}" if tokens_per_s >= 100 else f"{tokens_per_s:.3g}"
