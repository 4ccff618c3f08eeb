"""Where a command's answer goes: the record as JSON, a file, or a table on the terminal."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from flopwatch.cli.options import OutputOptions, PlotOptions
from flopwatch.errors import FlopwatchError
from flopwatch.record import Record
from flopwatch.report.messages import Language, Words

_OF_MODEL: Final = re.compile(r"^\S+ \S+(: |：)")
_COLOR: Final = re.compile(r"\x1b\[[0-9;]*m")


def emit(record: Record, options: OutputOptions) -> None:
    """Print the record on stdout in the wanted form, its warnings on stderr; write `-o FILE` and the charts of --plots.

    The answer is printed first: a file that cannot be written loses nothing. Raises FlopwatchError (exit code 1) for
    such a file.
    """
    words = Words(options.lang if options.json or options.csv else drawn_language(options.lang, quiet=options.quiet))
    drawn = _drawn(record, options, words.lang)
    print(drawn)
    if not options.quiet:
        for warning in map(words.said, record.warnings):
            if not _is_on_screen(warning, drawn):
                print(words("warning", text=warning), file=sys.stderr)
    if options.output is not None:
        write_file(options.output, record.to_json() + "\n")
    if isinstance(options, PlotOptions) and options.plots is not None:
        from flopwatch.cli.plots import write_plots  # it writes through this file

        written = write_plots(record, options.plots, lang=options.lang)
        said = (
            f"{len(written)} charts written to {options.plots}" if written else "no chart to write: the record has none"
        )
        note(said, options)


def _is_on_screen(text: str, drawn: str) -> bool:
    """Whether whoever sees stderr has just read the text among the answer's notes: both then go to one terminal.

    A note stands there beside its model, so that the text may begin with that.
    """
    if not sys.stdout.isatty():
        return False
    shown = " ".join(_COLOR.sub("", drawn).split())
    return any(said and " ".join(said.split()) in shown for said in (text, _OF_MODEL.sub("", text)))


def drawn_language(lang: Language, *, quiet: bool = False) -> Language:
    """The language to draw in on standard output: English, and a word about it, where it cannot take Chinese."""
    if lang == "en" or _takes_chinese():
        return lang
    if not quiet:
        print(f"an output in {sys.stdout.encoding} cannot show Chinese: drawn in English", file=sys.stderr)
    return "en"


def _drawn(record: Record, options: OutputOptions, lang: Language) -> str:
    """The record in the wanted form; each form is imported only when it is wanted."""
    if options.json:
        return record.to_json(ascii_only=not is_unicode())
    if options.markdown:
        from flopwatch.report.markdown import to_markdown

        return printable(to_markdown(record, lang=lang))
    if options.latex:
        from flopwatch.report.latex import to_latex

        return printable(to_latex(record, lang=lang))
    if options.csv:
        from flopwatch.report.csv import to_csv

        return printable(to_csv(record))
    from flopwatch.report.terminal import render

    is_wide = is_unicode() or lang == "zh"  # an encoding that has Chinese has the lines of tables too
    return printable(render(record, width=width(), color=use_color(), unicode=is_wide, lang=lang))


def note(text: str, options: OutputOptions) -> None:
    """Say something beside the answer, on stderr, unless --quiet."""
    if not options.quiet:
        print(text, file=sys.stderr)


def write_file(path: Path, content: str | bytes, *, option: str = "-o") -> None:
    """Write a whole file or nothing: a temporary file beside it, then a rename.

    A link is followed, and what is no regular file (a device, a pipe) is written into and never replaced.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        path = path.resolve()
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(temporary).chmod(0o666 & ~_umask())  # a temporary file is its owner's alone; a result is not
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FlopwatchError(
            f"cannot write {path}: {error.strerror or error}", hint=f"give another file to {option}"
        ) from error


def _umask() -> int:
    """The permissions that new files of this process go without; asking means setting it twice."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_writable(path: Path, *, option: str = "-o") -> None:
    """Refuse a file that could not be written, before anything long is done; what is there now stays."""
    try:
        path = path.resolve()
        if path.exists() and not path.is_file():
            path.open("ab").close()
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        Path(temporary).unlink()
    except OSError as error:
        raise FlopwatchError(
            f"cannot write {path}: {error.strerror or error}", hint=f"give another file to {option}"
        ) from error


def is_unicode() -> bool:
    """Whether standard output takes every character."""
    return (sys.stdout.encoding or "").lower().replace("-", "").replace("_", "") in {"utf8", "utf16", "utf32"}


def _takes_chinese() -> bool:
    """Whether standard output can be given Chinese: UTF-8, and encodings like GBK."""
    try:
        "中文：词元─█".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """The text with what standard output cannot take written as escapes."""
    if is_unicode():
        return text
    encoding = sys.stdout.encoding or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def width() -> int:
    """Columns of the terminal, 100 when the output is not one."""
    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100


def use_color() -> bool:
    """Colour on a terminal only; NO_COLOR and FORCE_COLOR are obeyed."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or sys.stdout.isatty()
