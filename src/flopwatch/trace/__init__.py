"""One recorder over a real run on tensors without data, and the views of what it wrote down."""

from __future__ import annotations

import sys
import types
from typing import Any


class _CallablePackage(types.ModuleType):
    """This package, which can be called as the function `fw.trace`, whose name it has.

    Python sets `flopwatch.trace` to the package when anything in it is imported; `fw.trace(step)` must still trace.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        """What `flopwatch.trace.api.trace` gives."""
        from flopwatch.trace.api import trace

        return trace(*args, **options)


sys.modules[__name__].__class__ = _CallablePackage
