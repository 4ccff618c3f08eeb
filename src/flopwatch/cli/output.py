"""Where a command's answer goes: the record as JSON, a file, or a table on the terminal."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from flopwatch.cli.options import OutputOptions
from flopwatch.errors import FlopwatchError
from flopwatch.record import Record


def emit(record: Record, options: OutputOptions) -> None:
    """Print the record on stdout in the wanted form, its warnings on stderr, and write it to `-o FILE`.

    The answer is printed first: a file that cannot be written loses nothing. Raises FlopwatchError (exit code 1) for
    such a file.
    """
    if options.json:
        print(record.to_json())
    else:
        from flopwatch.report.terminal import render

        print(render(record, width=width(), color=use_color()))
    if not options.quiet:
        for warning in record.warnings:
            print(f"warning: {warning}", file=sys.stderr)
    if options.output is not None:
        write_file(options.output, record.to_json() + "\n")


def note(text: str, options: OutputOptions) -> None:
    """Say something beside the answer, on stderr, unless --quiet."""
    if not options.quiet:
        print(text, file=sys.stderr)


def write_file(path: Path, text: str) -> None:
    """Write a whole file or nothing: a temporary file beside it, then a rename."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FlopwatchError(
            f"cannot write {path}: {error.strerror or error}", hint="give another file to -o"
        ) from error


def width() -> int:
    """Columns of the terminal, 100 when the output is not one."""
    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100


def use_color() -> bool:
    """Colour on a terminal only; NO_COLOR and FORCE_COLOR are obeyed."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or sys.stdout.isatty()
