"""`flopwatch runs`: what was measured before."""

from __future__ import annotations

import json as json_text
from typing import Annotated

from cyclopts import Parameter

from flopwatch.cli.options import Count, LanguageOption, StoreOptions
from flopwatch.cli.output import drawn_language, printable
from flopwatch.report.messages import Words
from flopwatch.store import Run, Store


def runs(
    *,
    kind: str | None = None,
    limit: Count = 20,
    json: Annotated[bool, Parameter(negative="")] = False,
    lang: LanguageOption = "en",
    store: StoreOptions | None = None,
) -> None:
    """The runs in the results store, the latest first; `flopwatch show ID` renders one again.

    Parameters
    ----------
    kind
        Only runs of this command: fit, bench, report.
    limit
        At most this many.
    json
        Print one JSON list.
    lang
        Language of the table: English or Chinese.
    """
    with Store((store or StoreOptions()).store) as opened:
        found = opened.runs(kind=kind, limit=limit)
        path = opened.path
    if json:
        print(json_text.dumps([_row(run) for run in found], indent=2))
        return
    words = Words(drawn_language(lang))
    if not found:
        print(printable(words("runs.none", path=path)))
        return
    heads = [words(f"runs.{name}") for name in ("id", "when", "kind", "status", "kept", "asked")]
    for line in _lines([heads, *(_cells(run, words) for run in found)]):
        print(printable(line))


def _lines(rows: list[list[str]]) -> list[str]:
    """Rows with their columns below one another; the last one, a command, may be as long as it is."""
    from rich.cells import cell_len  # a Chinese character is two columns wide

    widths = [max(cell_len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    padded = ([text + " " * (width - cell_len(text)) for text, width in zip(row, widths, strict=False)] for row in rows)
    return ["  ".join([*cells, row[-1]]).rstrip() for cells, row in zip(padded, rows, strict=True)]


def _row(run: Run) -> dict[str, object]:
    return {
        "id": run.id,
        "created": run.created,
        "kind": run.kind,
        "status": run.status,
        "n_items": run.n_items,
        "command": run.request.get("command"),
    }


def _cells(run: Run, words: Words) -> list[str]:
    when = run.created[:19].replace("T", " ")
    command = str(run.request.get("command", ""))
    return [str(run.id), when, run.kind, words.said(run.status), str(run.n_items), command]
