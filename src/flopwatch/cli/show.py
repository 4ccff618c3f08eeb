"""`flopwatch show`: a record that was made before, rendered again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
from cyclopts import Parameter

from flopwatch.cli.options import OutputOptions, StoreOptions
from flopwatch.cli.output import emit, note, write_file
from flopwatch.errors import FlopwatchError, InputError
from flopwatch.record import Record, load_record
from flopwatch.store import Run, Store

_MOST_RUNS: Final = 1 << 62  # past what SQLite can number


def show(
    run: str,
    /,
    *,
    html: Annotated[Path | None, Parameter(name="--html")] = None,
    store: StoreOptions | None = None,
    output: OutputOptions | None = None,
) -> None:
    """Render the record of an earlier run again, as a table, JSON, Markdown, CSV or a page.

    Parameters
    ----------
    run
        The number of a run (`flopwatch runs` lists them), or a file written with -o.
    html
        Write the record as one self-contained HTML page to this file.
    """
    options = output or OutputOptions()
    record = _stored(int(run), store or StoreOptions()) if run.isdecimal() else _from_file(Path(run))
    try:
        emit(record, options)
    finally:  # a reader that stops early (`| head`) loses no page
        if html is not None:
            from flopwatch.report.html import to_html

            write_file(html, to_html(record), option="--html")
            note(f"page written to {html}", options)


def _stored(number: int, options: StoreOptions) -> Record:
    if number > _MOST_RUNS:
        raise InputError(f"no run has the number {number}", hint="`flopwatch runs` lists them")
    with Store(options.store) as opened:
        run = opened.run(number)
    if run.record is None:
        raise FlopwatchError(_why_none(run), hint="go on with it with --resume")
    return msgspec.convert(run.record, Record)


def _why_none(run: Run) -> str:
    kept = f"{run.n_items} of its measurements are kept" if run.n_items else "nothing was measured"
    return f"run {run.id} ({run.kind}) is {run.status} and has no record: {kept}"


def _from_file(path: Path) -> Record:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{str(path)!r} is no number of a run and no file that can be read ({error.strerror or error})",
            hint="`flopwatch runs` lists the runs",
        ) from error
    return load_record(text, name=str(path))
