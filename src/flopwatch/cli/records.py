"""A record that was made before: by the number of its run in the store, or from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from flopwatch.cli.options import StoreOptions
from flopwatch.errors import FlopwatchError, InputError
from flopwatch.record import Kind, Record, load_record

_MOST_RUNS: Final = 1 << 62  # past what SQLite can number


def find_record(name: str, options: StoreOptions) -> Record:
    """The record of run number `name`, or in the file of that name.

    Raises InputError when there is neither, FlopwatchError for a run that has not ended.
    """
    return _stored(int(name), options) if name.isdecimal() else _from_file(Path(name))


def find_done(
    kind: Kind, *, asked: dict[str, Any], environment: dict[str, Any], options: StoreOptions
) -> tuple[int, Record] | None:
    """Number and record of the newest run that was asked the same on this machine, when it has ended; else None."""
    from flopwatch.measure.journal import resume_key
    from flopwatch.store import Store

    key = resume_key(kind, asked, environment)
    with Store(options.store) as opened:
        newest = next((run for run in opened.runs(kind=kind) if run.resume_key == key), None)
    if newest is None or newest.record is None:
        return None
    return newest.id, msgspec.convert(newest.record, Record)


def _stored(number: int, options: StoreOptions) -> Record:
    from flopwatch.store import Store  # a record in a file needs no store

    if number > _MOST_RUNS:
        raise InputError(f"no run has the number {number}", hint="`flopwatch runs` lists them")
    with Store(options.store) as opened:
        run = opened.run(number)
    if run.record is None:
        kept = f"{run.n_items} of its measurements are kept" if run.n_items else "nothing was measured"
        raise FlopwatchError(
            f"run {run.id} ({run.kind}) is {run.status} and has no record: {kept}", hint="go on with it with --resume"
        )
    return msgspec.convert(run.record, Record)


def _from_file(path: Path) -> Record:
    try:
        text = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"{str(path)!r} is no number of a run and no file that can be read ({reason})",
            hint="`flopwatch runs` lists the runs",
        ) from error
    return load_record(text, name=str(path))
