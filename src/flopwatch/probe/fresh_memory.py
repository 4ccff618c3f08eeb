"""How much of a step goes into memory that the system hands out anew: page faults, and the time of the kernel."""

from __future__ import annotations

import os

try:
    import resource
except ImportError:  # Windows counts neither
    resource = None  # type: ignore[assignment]


class FreshMemory:
    """From when it is made: the pages that this process was given, and the kernel's part of its CPU time."""

    def __init__(self) -> None:
        self._faults = _n_faults()
        self._began = os.times()

    def row(self, n_steps: int) -> dict[str, float]:
        """`pages` taken anew a step and `kernel_share` of the CPU time since it was made; empty where none is known."""
        faults, now = _n_faults(), os.times()
        kernel_s, user_s = now.system - self._began.system, now.user - self._began.user
        if faults is None or self._faults is None or n_steps < 1 or kernel_s + user_s <= 0:
            return {}
        return {"pages": (faults - self._faults) / n_steps, "kernel_share": kernel_s / (kernel_s + user_s)}


def _n_faults() -> int | None:
    return None if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_minflt
