"""Jobs of `doctor --selftest`: small things whose outcome is known beforehand."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import torch

from flopwatch.probe.tensor_peak import tensor_peak

_BUSY_S: Final = 0.25
_TICKS: Final = 200


def allocate(arguments: dict[str, Any]) -> dict[str, Any]:
    """Make a tensor of `n_bytes`, and say what the allocators' own statistics saw: `{asked_bytes, counted_bytes}`."""
    device, n_bytes = arguments["device"], arguments["n_bytes"]

    def work() -> None:
        torch.zeros(n_bytes, dtype=torch.uint8, device=device).fill_(1)

    if device == "cpu":
        with tensor_peak() as counted:
            work()
        return {"asked_bytes": n_bytes, "counted_bytes": counted.peak_bytes}
    module = torch.get_device_module(device)
    module.reset_peak_memory_stats()
    before_bytes = module.memory_allocated()
    work()
    return {"asked_bytes": n_bytes, "counted_bytes": int(module.max_memory_allocated() - before_bytes)}


def clocks(arguments: dict[str, Any]) -> dict[str, Any]:
    """The clock's tick, and how far it and others drift apart over a quarter of a second of work.

    `{tick_s, wall_s, monotonic_s, event_s}`; `event_s` is the device's own timer around the same work, null on a CPU.
    """
    device = arguments["device"]
    events = None
    settle: Callable[[], None] = lambda: None  # noqa: E731 - a CPU's work has ended when it returns
    if device.split(":")[0] in {"cuda", "xpu"}:
        module = torch.get_device_module(device)
        settle = module.synchronize
        events = [module.Event(enable_timing=True) for _ in range(2)]
    a = torch.randn((512, 512), device=device)
    torch.mm(a, a)
    settle()
    began_s, began_monotonic_s = time.perf_counter(), time.monotonic()
    if events is not None:
        events[0].record()
    while time.perf_counter() - began_s < _BUSY_S:
        torch.mm(a, a)
        settle()
    if events is not None:
        events[1].record()
    settle()
    wall_s, monotonic_s = time.perf_counter() - began_s, time.monotonic() - began_monotonic_s
    event_s = None if events is None else events[0].elapsed_time(events[1]) / 1000
    return {"tick_s": _tick_s(), "wall_s": wall_s, "monotonic_s": monotonic_s, "event_s": event_s}


def _tick_s() -> float:
    """The smallest step of the clock that was seen in many."""
    smallest_s = float("inf")
    for _ in range(_TICKS):
        began_s = now_s = time.perf_counter()
        while now_s == began_s:
            now_s = time.perf_counter()
        smallest_s = min(smallest_s, now_s - began_s)
    return smallest_s
