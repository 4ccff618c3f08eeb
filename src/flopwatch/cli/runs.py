"""`flopwatch runs`: what was measured before."""

from __future__ import annotations

import json as json_text
from typing import Annotated

from cyclopts import Parameter

from flopwatch.cli.options import Count, StoreOptions
from flopwatch.store import Run, Store


def runs(
    *,
    kind: str | None = None,
    limit: Count = 20,
    json: Annotated[bool, Parameter(negative="")] = False,
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
    """
    with Store((store or StoreOptions()).store) as opened:
        found = opened.runs(kind=kind, limit=limit)
        path = opened.path
    if json:
        print(json_text.dumps([_row(run) for run in found], indent=2))
        return
    if not found:
        print(f"no runs in {path}")
        return
    cells = [["ID", "WHEN (UTC)", "KIND", "STATUS", "KEPT", "ASKED"], *(_cells(run) for run in found)]
    widths = [max(len(row[column]) for row in cells) for column in range(5)]
    for row in cells:
        padded = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
        print("  ".join([*padded, row[5]]).rstrip())


def _row(run: Run) -> dict[str, object]:
    return {
        "id": run.id,
        "created": run.created,
        "kind": run.kind,
        "status": run.status,
        "n_items": run.n_items,
        "command": run.request.get("command"),
    }


def _cells(run: Run) -> list[str]:
    when = run.created[:19].replace("T", " ")
    return [str(run.id), when, run.kind, run.status, str(run.n_items), str(run.request.get("command", ""))]
