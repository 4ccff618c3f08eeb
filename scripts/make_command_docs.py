"""Writes docs/commands/*.md from the commands themselves: docstrings, options and, where nothing is measured, output.

    python scripts/make_command_docs.py            # write the pages
    python scripts/make_command_docs.py --check    # exit with 1 where one differs from what the command says

`tests/test_docs_commands.py` makes the same comparison, so a page cannot drift from its command.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import shlex
import sys
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from flopwatch import errors
from flopwatch.cli import COMMANDS, build_app, options, run

FOLDER: Final = Path(__file__).parents[1] / "docs" / "commands"
WIDTH: Final = 100
_MADE: Final = (
    "<!-- Made by scripts/make_command_docs.py from the command itself: change the command, then run it again. -->"
)

# Commands that measure nothing are run, and their output stands in the page; the others are shown as they are typed.
RUN: Final[dict[str, tuple[str, ...]]] = {
    "count": ("count gpt-small gpt-xl --batch 2", "count gpt-xl --phase train --recompute full"),
    "devices": ("devices 'A100 SXM4 40GB'",),
    "fit": ("fit gpt-small gpt-xl --predict-only --device 'A100 SXM4 40GB' --dtype bf16",),
    "memory": ("memory gpt-small --batch 8 --device 'A100 SXM4 40GB'",),
    "mfu": (
        "mfu gpt-xl --tokens-per-s 6779.92 --device 'A100 SXM4 40GB'",
        "mfu gpt-xl --tokens-per-s 6779.92 --device A100 --convention notebook --peak-set notebook",
    ),
    "roofline": ("roofline gpt-small --batch 8 --device 'A100 SXM4 40GB'",),
}
TYPED: Final[dict[str, tuple[str, ...]]] = {
    "bench": (
        "bench gpt-small --batch 4 --seq 256",
        "bench gpt-small --seq 256 --batch best --global-batch 64",
        "bench gpt-small --seq 256 --batch 2 --explore",
        "bench gpt-small --seq 256 --batch 2 --why",
        "bench gpt-small --batch max --limit 4GiB --dtype bf16 -o gpt-small.json",
    ),
    "compare": ("compare before.json after.json", "compare 12 15 --fail-if 'mfu<-5%'"),
    "count": ("count config.json --trace --reconcile", "count my_package.models:make_model --trace --strict"),
    "devices": ("devices", "devices --dtype fp8 --csv"),
    "doctor": ("doctor", "doctor --selftest"),
    "fit": ("fit gpt-small --limit 2GiB --seq 256", "fit llama-3.2-1b --phase forward --power-of-two --resume"),
    "memory": ("memory llama-3.1-8b --lora-rank 16 --seq 4k --device 'H100 SXM5 80GB'",),
    "mfu": (
        "mfu llama-3-70b --tokens-per-s-per-device 1621 --n-devices 64 --seq 8k \\\n"
        "    --device 'H100 SXM5 80GB' --convention all",
    ),
    "peak": ("peak", "peak --dtype bf16 --quick"),
    "report": (
        "report gpt-small gpt-medium gpt-large gpt-xl",
        "report gpt-small --seq 128 --limit 2GiB --budget 3min --html small.html",
    ),
    "roofline": ("roofline gpt-small --phase decode --batch 64",),
    "runs": ("runs", "runs --kind fit --limit 5"),
    "show": ("show 12", "show 12 --html page.html"),
}
# How a value is written, by the parser that the option names.
_KINDS: Final = {
    typing.get_args(kind)[1].converter: (name, example)
    for kind, name, example in (
        (options.Count, "COUNT", "`8`, `1k` = 1000, `4M`"),
        (options.SeqLen, "TOKENS", "`1024`, `8k` = 8192"),
        (options.Bytes, "SIZE", "`2GiB`, `512MiB`, `80GB` (decimal)"),
        (options.Rate, "RATE", "`6779.92`, `12.5k` = 12500"),
        (options.Seconds, "TIME", "`90s`, `8min`, `1h`"),
    )
}
_PLAIN: Final = {int: "NUMBER", float: "NUMBER", str: "TEXT", Path: "FILE"}
_COMMON: Final = "\n".join(
    [
        "Every command has `--help`. Options can also come from `FLOPWATCH_*` variables, `flopwatch.toml`, or",
        "`[tool.flopwatch]` in `pyproject.toml`, in this order; flags win.",
        "",
        "| value | written as |",
        "|---|---|",
        *(f"| {name} | {example} |" for name, example in _KINDS.values()),
        "",
        "Data goes to stdout, everything else to stderr. Exit codes:",
        "",
        "| code | meaning |",
        "|--:|---|",
        f"| {errors.EXIT_OK} | done |",
        f"| {errors.EXIT_FAILURE} | failed while running |",
        f"| {errors.EXIT_USAGE} | bad usage or bad input |",
        f"| {errors.EXIT_DOES_NOT_FIT} | does not fit, over budget, or a regression |",
        f"| {errors.EXIT_MISSING} | a package or a device that is needed is missing |",
        f"| {errors.EXIT_INTERRUPTED} | interrupted |",
        "",
    ]
)


def pages() -> dict[str, str]:
    """File name -> text of every page: the overview and one for each command."""
    return {"index.md": overview(), **{f"{name}.md": page(name) for name in sorted(COMMANDS)}}


def overview() -> str:
    """The page that lists all commands."""
    lines = [_MADE, "", "# Commands", "", "| command | answers |", "|---|---|"]
    lines += [f"| [`{name}`]({name}.md) | {_cell(COMMANDS[name])} |" for name in COMMANDS]
    return "\n".join([*lines, "", _COMMON])


def page(name: str) -> str:
    """The page of one command."""
    app = build_app()[name]
    arguments = list(app.assemble_argument_collection(parse_docstring=True))
    positional = [argument for argument in arguments if argument.show and argument.index is not None]
    usage = " ".join(["flopwatch", name, *(_placeholder(argument) for argument in positional), "[OPTIONS]"])
    description = inspect.getdoc(app.default_command).partition("Parameters\n---")[0].strip()
    lines = [_MADE, "", f"# flopwatch {name}", "", _linked(description), "", "```", usage, "```", ""]
    if positional:
        lines += ["| argument | meaning |", "|---|---|"]
        lines += [f"| `{_argument_name(argument)}` | {_meaning(argument)} |" for argument in positional]
        lines += [""]
    for title, group in _groups(arguments):
        lines += [f"## {title}", "", "| option | value | default | meaning |", "|---|---|---|---|"]
        lines += [f"| {_names(a)} | {_value(a)} | {_default(a)} | {_meaning(a)} |" for a in group]
        lines += [""]
    return "\n".join([*lines, "## Examples", "", *_examples(name)])


def _groups(arguments: Sequence[Any]) -> Iterator[tuple[str, list[Any]]]:
    """The options under the first line of the dataclass that brings them; a command's own come first."""
    title, groups = "Options", {"Options": []}
    for argument in arguments:
        if not argument.keys:
            title = "Options"
        if argument.names == ("*",):
            brought_by = next(kind for kind in typing.get_args(argument.hint) if kind is not type(None))
            title = inspect.getdoc(brought_by).partition("\n")[0].rstrip(".")
        elif argument.show and argument.index is None:
            groups.setdefault(title, []).append(argument)
    yield from ((title, group) for title, group in groups.items() if group)


def _argument_name(argument: Any) -> str:
    return argument.names[0].lstrip("-").upper()


def _placeholder(argument: Any) -> str:
    if argument.required:
        return _argument_name(argument)
    dots = "..." if argument.is_var_positional() else ""
    return f"[{_argument_name(argument)}{dots}]"


def _names(argument: Any) -> str:
    return ", ".join(f"`{name}`" for name in argument.names)


def _value(argument: Any) -> str:
    """How the value is written; nothing for a flag."""
    if argument.is_flag():
        return ""
    choices = argument.get_choices()
    if choices is not None:
        return " · ".join(f"`{choice}`" for choice in choices)
    if argument.parameter.converter in _KINDS:
        return _KINDS[argument.parameter.converter][0]
    plain = [kind for kind in _PLAIN if kind in _kinds_in(argument.hint)]
    return _PLAIN[plain[0]] if plain else "TEXT"


def _kinds_in(hint: Any) -> set[Any]:
    """The plain types in an annotation: of `tuple[str, ...]` and `str | None` it is `str`."""
    inner = typing.get_args(hint)
    return {hint} if not inner else {kind for part in inner for kind in _kinds_in(part)}


def _default(argument: Any) -> str:
    value = argument.field_info.default
    if argument.required or value in (None, (), False):
        return ""
    return ", ".join(f"`{each}`" for each in value) if isinstance(value, tuple) else f"`{value}`"


def _meaning(argument: Any) -> str:
    return _cell(_linked(argument.parameter.help or ""))


def _linked(text: str) -> str:
    """Pages that a help text names become links."""
    return re.sub(r"\bdocs/([a-z-]+)\.md\b", r"[\1](../\1.md)", text)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _examples(name: str) -> Iterator[str]:
    for line in RUN.get(name, ()):
        yield from ("```console", f"$ flopwatch {line}", output_of(line), "```", "")
    if name in TYPED:
        yield from ("```console", *(f"$ flopwatch {line}" for line in TYPED[name]), "```", "")


def output_of(line: str) -> str:
    """What the command line prints on stdout, 100 columns wide, without colour; raises SystemExit where it fails."""
    written = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    before = dict(os.environ)
    os.environ |= {"COLUMNS": str(WIDTH), "NO_COLOR": "1"}
    try:
        with contextlib.redirect_stdout(written):
            code = run(shlex.split(line))
    finally:
        os.environ.clear()
        os.environ.update(before)
    if code not in (errors.EXIT_OK, errors.EXIT_DOES_NOT_FIT):
        raise SystemExit(f"flopwatch {line} ended with {code}")
    written.seek(0)
    return "\n".join(text.rstrip() for text in written.read().rstrip().splitlines())


def main() -> None:
    """Write every page, or with --check compare."""
    stale = []
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        path = FOLDER / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{'differs' if '--check' in sys.argv else 'written'}: docs/commands/{name}")
    sys.exit(1 if stale and "--check" in sys.argv else 0)


if __name__ == "__main__":
    main()
