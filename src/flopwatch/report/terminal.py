"""A record drawn for the terminal: text at any width, ASCII where the terminal knows no more, colour on request."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Sequence
from typing import Final, Literal

from rich.box import SIMPLE_HEAD, Box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from flopwatch.record import Record
from flopwatch.report.content import blocks_of
from flopwatch.report.document import Block, Cell, Column, Fact, Facts, Heading, Note, Table
from flopwatch.report.messages import Language, Words

_STYLES: Final = {"": "", "strong": "bold", "dim": "dim", "good": "green", "warn": "yellow", "bad": "red"}
# SIMPLE_HEAD in ASCII: rich has none with a single line under the head.
_ASCII_BOX: Final = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
_ASCII: Final = str.maketrans({"×": "x", "·": "-", "–": "-", "…": "...", "≥": ">=", "’": "'", "█": "#", "µ": "u"})
# A number and its unit stay on one line: this stands for their space until the lines are broken.
_GLUE: Final = "\ue000"
_UNIT: Final = re.compile(r"(?<=[0-9]) (?=(?:%|[KMG]?i?B|[kMGTPE]?FLOP|GB/s|tokens/s|词元|m?u?s\b))")
# Chinese has no spaces: a line may end after any of its characters, but begins with no closing mark and ends with no
# opening one, and 词元 (token) stays whole. The mark is white space to the one that breaks lines, and takes no room.
_BREAK: Final = "\x1f"
_MAY_BREAK: Final = re.compile(
    "(?<=[一-鿿，。；：、）”])(?=[一-兂兄-鿿（“0-9A-Za-z`+-])|(?<=[0-9A-Za-z%`])(?=[一-兂兄-鿿（])"
)
_BAR_CELLS: Final = 20
_LEAST_BAR_CELLS: Final = 8
_LEAST_TEXT_CELLS: Final = 12
_MOST_WORD_CELLS: Final = 32
_LEAST_CELLS: Final = 40


def render(
    record: Record, *, width: int = 100, color: bool = False, unicode: bool = True, lang: Language = "en"
) -> str:
    """The record as text of at most `width` columns, without a line end at the end.

    Numbers are never cut: where a table has no room, its less important columns are left out, and where even that is
    not enough each row is written as lines. Control characters in names are shown as escapes, not obeyed.
    """
    words = Words(lang)
    return draw(blocks_of(record, words), width=width, color=color, unicode=unicode)


def draw(blocks: Sequence[Block], *, width: int, color: bool, unicode: bool) -> str:
    """Blocks as text."""
    out = io.StringIO()
    console = Console(
        file=out,
        width=max(width, _LEAST_CELLS),
        color_system="standard" if color else None,
        force_terminal=color,
        no_color=not color,
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
        _environ={},
    )
    pen = _Pen(console, unicode=unicode)
    for block in blocks:
        pen.draw(block)
    text = out.getvalue().replace(_GLUE, " ").replace(_BREAK, "")
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


class _Pen:
    """Draws one block after another on a console."""

    def __init__(self, console: Console, *, unicode: bool) -> None:
        self._console = console
        self._unicode = unicode
        self._last: Block | None = None

    def draw(self, block: Block) -> None:
        is_list = isinstance(block, Note) and isinstance(self._last, Note)  # notes below one another are one list
        if self._last is not None and not isinstance(self._last, Heading) and not is_list:
            self._console.print()
        self._last = block
        match block:
            case Heading():
                self._console.print(self._text(block.text, "bold cyan"))
            case Note():
                self._console.print(self._text(block.text, _STYLES[block.style]))
            case Facts():
                self._console.print(self._facts(block.rows))
            case Table():
                self._table(block)

    def _text(self, text: str, style: str = "") -> Text:
        return Text(self._safe(text), style=style)

    def _safe(self, text: str) -> str:
        """Text that the terminal can show and that commands nothing of it."""
        clean = "".join(c if unicodedata.category(c)[0] != "C" else c.encode("unicode_escape").decode() for c in text)
        clean = _UNIT.sub(_GLUE, clean)
        if self._unicode:
            return _MAY_BREAK.sub(_BREAK, clean)
        return clean.translate(_ASCII).replace(_GLUE, " ").encode("ascii", "backslashreplace").decode()

    def _facts(self, rows: Sequence[Fact]) -> Grid:
        grid = Grid.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        value_width = max((cell_len(row.value) for row in rows if row.exact), default=0)
        exact_width = max(len(row.exact) for row in rows)
        for row in rows:
            gap = " " * (value_width - cell_len(row.value))
            value = f"{row.value}{gap}  {row.exact:>{exact_width}}" if row.exact else row.value
            grid.add_row(self._text(row.label), self._text(value, _STYLES[row.style]))
        return grid

    def _table(self, table: Table) -> None:
        if table.title:
            self._console.print(self._text(table.title, "bold"))
        cells = [[cell if isinstance(cell, Cell) else Cell(text=cell) for cell in row] for row in table.rows]
        keep = _columns_that_fit(table.columns, cells, self._console.width)
        if keep is None:
            self._as_lines(table.columns, cells)
        else:
            self._as_grid([table.columns[i] for i in keep], [[row[i] for i in keep] for row in cells])
        if table.note:
            self._console.print(self._text(table.note, "dim"))

    def _as_grid(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
        grid = Grid(box=SIMPLE_HEAD if self._unicode else _ASCII_BOX, pad_edge=False, show_edge=False, expand=False)
        for column, width in zip(columns, _widths(columns, rows, self._console.width), strict=True):
            justify: Literal["left", "right"] = "right" if column.is_number else "left"
            grid.add_column(self._text(column.name), justify=justify, width=width, overflow="fold")
        has_bars = any(cell.bar is not None for row in rows for cell in row)
        room = self._console.width - _natural_width(columns, rows) - 3
        n_cells = min(_BAR_CELLS, room)
        if has_bars and n_cells >= _LEAST_BAR_CELLS:
            grid.add_column("")
        for row in rows:
            drawn = [self._text(cell.text, _STYLES[cell.style]) for cell in row]
            if has_bars and n_cells >= _LEAST_BAR_CELLS:
                drawn.append(self._bar(row, n_cells))
            grid.add_row(*drawn)
        self._console.print(grid)

    def _bar(self, row: Sequence[Cell], n_cells: int) -> Text:
        fraction = next((cell.bar for cell in row if cell.bar is not None), 0.0)
        filled = round(fraction * n_cells)
        return self._text("█" * max(filled, 1 if fraction > 0 else 0), "cyan")

    def _as_lines(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
        """A table too wide for the terminal: each row as figures below one another."""
        for index, row in enumerate(rows):
            if index:
                self._console.print()
            pairs = [(c.name, cell) for c, cell in zip(columns, row, strict=True) if cell.text and not c.rank]
            self._console.print(
                self._facts([Fact(label=name, value=cell.text, style=cell.style) for name, cell in pairs])
            )


def _natural_width(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> int:
    return sum(_column_width(column, [row[i].text for row in rows]) + 3 for i, column in enumerate(columns)) - 2


def _column_width(column: Column, texts: Sequence[str]) -> int:
    return max(cell_len(text) for text in (column.name, *texts))


def _columns_that_fit(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int) -> list[int] | None:
    """The columns to show: those of the highest rank go first; None when even rank 0 has no room."""
    least = [_least_width(column, [row[i].text for row in rows]) for i, column in enumerate(columns)]
    for_bars = _LEAST_BAR_CELLS + 3 if any(cell.bar is not None for row in rows for cell in row) else 0
    for room in (width - for_bars, width):
        for most in sorted({column.rank for column in columns}, reverse=True):
            keep = [i for i, column in enumerate(columns) if column.rank <= most]
            if sum(least[i] + 3 for i in keep) - 2 <= room:
                return keep
    return None


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], room: int) -> list[int]:
    """The width of each column: numbers whole, text as wide as it is while there is room, the widest cut first."""
    texts = [[row[i].text for row in rows] for i in range(len(columns))]
    least = [_least_width(column, text) for column, text in zip(columns, texts, strict=True)]
    widths = [_column_width(column, text) for column, text in zip(columns, texts, strict=True)]
    excess = sum(width + 3 for width in widths) - 2 - room
    while excess > 0:
        spare, widest = max((width - low, i) for i, (width, low) in enumerate(zip(widths, least, strict=True)))
        if spare <= 0:
            break
        widths[widest] -= 1
        excess -= 1
    return widths


def _least_width(column: Column, texts: Sequence[str]) -> int:
    """Numbers need their whole width; text breaks between words, and within one only when that is very long."""
    if column.is_number:
        return _column_width(column, texts)
    longest_word = max(cell_len(word) for text in (column.name, *texts) for word in [*_pieces(text), ""])
    return min(_column_width(column, texts), max(longest_word, _LEAST_TEXT_CELLS), _MOST_WORD_CELLS)


def _pieces(text: str) -> list[str]:
    """What a line is made of that is not broken: words, and the single characters of Chinese."""
    return _MAY_BREAK.sub(_BREAK, text).split()
