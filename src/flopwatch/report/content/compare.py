"""What is shown of a comparison: for each model the figures before and after, and whether they changed."""

from __future__ import annotations

from collections.abc import Sequence

from flopwatch import units
from flopwatch.record import ChangeRow, CompareResult
from flopwatch.report.content.figures import rate_text
from flopwatch.report.document import Block, Cell, Column, Heading, Style, Table
from flopwatch.report.messages import Words


def blocks(results: Sequence[CompareResult], words: Words) -> list[Block]:
    """One table a result."""
    return [block for result in results for block in (Heading(text=_title(result, words)), _table(result, words))]


def _title(result: CompareResult, words: Words) -> str:
    size = None if result.seq_len is None else words("tokens", n=result.seq_len)
    if size is not None and result.batch is not None:
        size = f"{result.batch} x {size}"
    convention = result.details.get("convention")
    known = (words.said(result.what), result.phase and words.said(result.phase), size, result.dtype, convention)
    return words(
        "compare.title", model=result.model, what=words("list.parts").join(str(part) for part in known if part)
    )


def _table(result: CompareResult, words: Words) -> Table:
    return Table(
        columns=[
            Column(name=words("col.figure"), is_number=False),
            Column(name=words("col.before")),
            Column(name=words("col.after")),
            Column(name=words("col.change")),
            Column(name=words("col.interval"), rank=1),
            Column(name=words("col.noise"), is_number=False),
        ],
        rows=[_row(change, words) for change in result.changes],
    )


def _row(change: ChangeRow, words: Words) -> list[Cell | str]:
    key, style = _judged(change)
    return [
        change.figure,
        _value(change.figure, change.before, words),
        _value(change.figure, change.after, words),
        _signed(change.change_fraction, words),
        "" if change.interval_fraction is None else _interval(*change.interval_fraction),
        Cell(text=words(f"compare.{key}"), style=style),
    ]


def _judged(change: ChangeRow) -> tuple[str, Style]:
    if change.beyond_noise is None:
        return "unknown", "dim"
    if change.is_exact:
        return ("exact", "strong") if change.beyond_noise else ("equal", "dim")
    return ("yes", "strong") if change.beyond_noise else ("same", "dim")


def _signed(fraction: float | None, words: Words) -> str:
    return words("na") if fraction is None else f"{100 * fraction:+z.2f} %"


def _interval(low: float, high: float) -> str:
    return f"{100 * low:+z.2f} .. {100 * high:+z.2f} %"


def _value(figure: str, value: float | None, words: Words) -> str:
    """The figure in the unit that ends its name; whole numbers to the last digit."""
    if value is None:
        return words("na")
    if figure.startswith(("mfu", "hfu")):
        return units.format_percent(value)
    if figure.endswith("flops_per_s"):
        return units.format_rate(value)
    if figure == "tokens_per_s":
        return rate_text(value)
    if figure.endswith("bytes_per_s"):
        return units.format_bandwidth(value)
    if figure.endswith("_bytes"):
        return units.format_bytes(value)
    if figure.endswith("_s"):
        return units.format_seconds(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
