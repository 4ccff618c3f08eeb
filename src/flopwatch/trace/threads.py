"""Threads that a step starts: torch's modes stay in the thread that entered them, so what runs there is not seen."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Final

_NOTE: Final = "the step started a thread: operators that run there outside of a module are not seen"


@contextlib.contextmanager
def threads_noted(notes: set[str]) -> Iterator[None]:
    """While this is entered, the start of a thread adds a note."""
    original = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        notes.add(_NOTE)
        original(thread)

    threading.Thread.start = start  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        threading.Thread.start = original  # type: ignore[method-assign]
