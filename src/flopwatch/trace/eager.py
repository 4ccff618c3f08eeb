"""Nothing compiles during a trace: compiled functions run as they were written, and compile as ever afterwards.

A function that is first called under a dispatch mode would otherwise stay eager for ever.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def without_compilation() -> Iterator[None]:
    """While this is entered, what `torch.compile` made or makes runs eagerly.

    The switch for it lives in torch's compiler, which takes a second to load: it is loaded when the step first
    compiles something (`torch.cond` does so too), unless it is there already.
    """
    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message=r".*when there are global hooks on modules")  # ours, and not for long
        if "torch._dynamo" in sys.modules:
            cleanup.enter_context(torch.compiler.set_stance("force_eager"))
            yield
            return
        original = torch.compile

        def compile_later(*args: Any, **kwargs: Any) -> Any:
            if torch.compile is compile_later:
                torch.compile = original
                cleanup.enter_context(torch.compiler.set_stance("force_eager"))
            return original(*args, **kwargs)

        try:
            torch.compile = compile_later
            yield
        finally:
            torch.compile = original
