"""Charts into a folder: refused before long work where they cannot be drawn, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from flopwatch.cli.output import check_writable, write_file
from flopwatch.errors import InputError
from flopwatch.record import Record
from flopwatch.report.messages import Language


def check_plots_into(folder: Path) -> None:
    """Raise InputError for what is no folder, FlopwatchError for one that cannot be written, MissingError without a
    browser or kaleido.
    """
    from flopwatch.report.plots import check_plots

    if folder.exists() and not folder.is_dir():
        raise InputError(f"--plots {folder} is a file", hint="name a folder")
    check_plots()
    check_writable(folder / ".flopwatch", option="--plots")


def write_plots(record: Record, folder: Path, *, lang: Language = "en") -> list[Path]:
    """The files of every chart of the record, all drawn before the first is written."""
    from flopwatch.report.plots import plots_of

    files = plots_of(record, lang=lang)
    for name, content in files.items():
        write_file(folder / name, content, option="--plots")
    return [folder / name for name in files]
