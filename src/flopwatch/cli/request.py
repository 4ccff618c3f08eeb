"""What was asked: the command line as it was typed, kept with every record."""

from __future__ import annotations

import shlex
from contextvars import ContextVar
from typing import Any

_argv: ContextVar[tuple[str, ...]] = ContextVar("argv", default=())


def remember(argv: tuple[str, ...]) -> None:
    """Keep the arguments of the command that is about to run."""
    _argv.set(argv)


def request(**fields: Any) -> dict[str, Any]:
    """The `request` of a record: the command that made it, and what was resolved from it."""
    return {"command": shlex.join(["flopwatch", *_argv.get()]), **fields}
