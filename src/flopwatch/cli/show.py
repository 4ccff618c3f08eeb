"""`flopwatch show`: a record that was made before, rendered again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flopwatch.cli.options import PlotOptions, StoreOptions
from flopwatch.cli.output import emit, note, write_file
from flopwatch.cli.records import find_record


def show(
    run: str,
    /,
    *,
    html: Annotated[Path | None, Parameter(name="--html")] = None,
    store: StoreOptions | None = None,
    output: PlotOptions | None = None,
) -> None:
    """Render the record of an earlier run again, as a table, JSON, Markdown, CSV or a page.

    Parameters
    ----------
    run
        The number of a run (`flopwatch runs` lists them), or a file written with -o.
    html
        Write the record as one self-contained HTML page to this file.
    """
    options = output or PlotOptions()
    record = find_record(run, store or StoreOptions())
    try:
        emit(record, options)
    finally:  # a reader that stops early (`| head`) loses no page
        if html is not None:
            from flopwatch.report.html import to_html

            write_file(html, to_html(record, lang=options.lang), option="--html")
            note(f"page written to {html}", options)
