"""A record as LaTeX: tables with the rules of booktabs, for a paper."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from flopwatch.record import Record
from flopwatch.report.content import blocks_of
from flopwatch.report.content.figures import warnings_beside
from flopwatch.report.document import Block, Cell, Column, Fact, Facts, Heading, Note, Table, one_line
from flopwatch.report.messages import Language, Words

# Every character that means something to TeX, or that pdfTeX's usual fonts have no sign for.
_SIGNS: Final = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "#": r"\#",
        "_": r"\_",
        "%": r"\%",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "`": r"\textasciigrave{}",
        '"': r"\textquotedbl{}",
        "[": "{[}",  # after \\ it would start an argument
        "]": "{]}",
        "*": "{*}",  # so would this
        "×": r"$\times$",
        "·": r"$\cdot$",
        "≥": r"$\geq$",
        "≤": r"$\leq$",
        "→": r"$\rightarrow$",
        "µ": r"$\mu$",
        "²": r"$^2$",
        "–": "--",
        "…": r"\ldots{}",
        "’": "'",
    }
)
# What would come out as another sign: two hyphens as a dash, two commas or quotes as one mark.
_LIGATURE: Final = re.compile(r"(?<=[-,'])(?=[-,'])")
_MINUS: Final = re.compile(r"(?<![\w.)\]}-])-(?=[0-9.])")
_SECTIONS: Final = {1: "section*", 2: "subsection*"}
_WIDE: Final = 36  # characters of a text column from which on it is broken into lines
_PREAMBLE: Final = {
    "en": r"% \usepackage[T1]{fontenc}, \usepackage{booktabs}",
    "zh": r"% \usepackage{ctex}, \usepackage{booktabs}; xelatex",
}


def to_latex(record: Record, *, lang: Language = "en") -> str:
    """The record as LaTeX to be read in with \\input: all columns of every table in it, the warnings at the end.

    The first line names the packages that it needs. Every name is text: nothing in it is a command.
    """
    words = Words(lang)
    blocks = list(blocks_of(record, words))
    parts = [_PREAMBLE[lang], *(_block(block, words) for block in blocks)]
    warnings = warnings_beside(blocks, record.warnings, words)
    if warnings:
        parts.append(_list([_text(words("warning", text=text)) for text in warnings]))
    return "\n\n".join(parts)


def _block(block: Block, words: Words) -> str:
    match block:
        case Heading():
            return f"\\{_SECTIONS.get(block.level, 'paragraph*')}{{{_text(block.text)}}}"
        case Note():
            return _text(block.text)
        case Facts():
            return _facts(block.rows, words)
        case Table():
            return _table(block)


def _facts(rows: Sequence[Fact], words: Words) -> str:
    lines = [r"\begin{tabular}{@{}lp{0.7\linewidth}@{}}", r"  \toprule"]
    for row in rows:
        value = words("aside", text=row.value, aside=row.exact) if row.exact else row.value
        lines.append(f"  {_text(row.label)} & {_styled(_text(value), strong=row.style == 'strong')} \\\\")
    return "\n".join([*lines, r"  \bottomrule", r"\end{tabular}"])


def _table(table: Table) -> str:
    rows = [[cell if isinstance(cell, Cell) else Cell(text=cell) for cell in row] for row in table.rows]
    lines = [r"\begin{table}[htbp]", r"  \centering"]
    if table.title:
        lines.append(f"  \\caption{{{_text(table.title)}}}")
    lines += [
        f"  \\begin{{tabular}}{{@{{}}{_alignment(table.columns, rows)}@{{}}}}",
        r"    \toprule",
        f"    {' & '.join(_text(column.name) for column in table.columns)} \\\\",
        r"    \midrule",
    ]
    for row in rows:
        cells = [_styled(_text(cell.text), strong=cell.style == "strong") for cell in row]
        lines.append(f"    {' & '.join(cells)} \\\\")
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    if table.note:
        lines.append(f"  \\par\\smallskip{{\\footnotesize {_text(table.note)}}}")
    return "\n".join([*lines, r"\end{table}"])


def _alignment(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> str:
    """Numbers to the right, text to the left, and long text in lines: wide columns share the width of the page."""
    longest = [max((len(row[i].text) for row in rows), default=0) for i in range(len(columns))]
    wide = [not column.is_number and longest[i] > _WIDE for i, column in enumerate(columns)]
    share = f"p{{{0.6 / max(1, sum(wide)):.2f}\\linewidth}}"
    return "".join(
        "r" if column.is_number else share if is_wide else "l" for column, is_wide in zip(columns, wide, strict=True)
    )


def _list(lines: Sequence[str]) -> str:
    return "\n".join([r"\begin{itemize}", *(f"  \\item {{}}{line}" for line in lines), r"\end{itemize}"])


def _styled(text: str, *, strong: bool) -> str:
    return f"\\textbf{{{text}}}" if strong and text else text


def _text(text: str) -> str:
    """Text that TeX sets as it is, in one paragraph."""
    pieces = _MINUS.split(_LIGATURE.sub("\x00", one_line(text)))
    return "$-$".join(piece.translate(_SIGNS) for piece in pieces).replace("\x00", "{}")
