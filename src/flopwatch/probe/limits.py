"""A child's memory: the limit it runs under, and the most it had. One class a kind of device, behind one interface.

On a CPU the limit is Linux's RLIMIT_DATA: private writable memory (heap, anonymous maps, thread stacks), counted from
what the idle process had after torch was imported and its libraries were warmed up. The peak is the high-water mark of
the address space over the same point, which for such memory is the same quantity. Pages of libraries and files are in
neither.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import sys
from pathlib import Path
from typing import Any, Final, Protocol

from flopwatch.device.cpu import n_affinity_cores, quota_cores
from flopwatch.errors import MissingError

# From glibc's malloc.h. With both thresholds fixed, each tensor is a map of its own that goes back when it is freed.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_TIGHT_BYTES: Final = 64 * 1024


class Memory(Protocol):
    """What can be done with the memory of one device, from within a child."""

    def limit(self, limit_bytes: int) -> None:
        """Let the work allocate at most `limit_bytes` from now on."""

    def lift(self) -> None:
        """Take the limit away again, so that a failure can be written down."""

    def peak_bytes(self) -> int | None:
        """The most that was allocated since the start, or None where nothing tells."""


def memory_of(device: str) -> Memory:
    """The memory of a torch device name such as `cpu`, `cuda:0`, `xpu` or `mps`; counting starts now."""
    if device.split(":")[0] != "cpu":
        return _AcceleratorMemory(device)
    return _LinuxMemory() if sys.platform == "linux" else _UnlimitedMemory()


def tighten_malloc() -> None:
    """Make freed memory go back to the system at once, from one arena, where the C library can (glibc)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, _TIGHT_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _TIGHT_BYTES)


def warm_up(device: str, *, fills_packing: bool) -> None:
    """Do a little of everything, so that threads, autograd and library handles exist before memory is counted.

    With `fills_packing` the CPU's matmul library takes all the memory that it keeps, too. Steps that are timed do
    without: a freed tensor of that size makes malloc keep larger ones than it would in a loop of the user's own.
    """
    import torch

    a = torch.randn(256, 256, device=device, requires_grad=True)
    (torch.nn.functional.gelu(a @ a) + a).sum().backward()
    if device.split(":")[0] != "cpu":
        torch.get_device_module(device).synchronize()
    elif fills_packing:
        # MKL keeps up to 5 MiB a thread to pack operands in, and does without, another way, when it gets none: near a
        # limit what fits would be a matter of chance. This is the smallest matmul seen to make it take all of it.
        torch.nn.functional.linear(torch.randn(256, 384), torch.randn(8192, 384))
    del a
    gc.collect()


def usable_cores() -> int:
    """The whole cores that this process may use: its affinity, and its container's quota of CPU time, rounded up."""
    n_cores, quota = n_affinity_cores(), quota_cores()
    return n_cores if quota is None else min(n_cores, max(1, math.ceil(quota)))


class _LinuxMemory:
    """The process's own memory under RLIMIT_DATA."""

    def __init__(self) -> None:
        reset = Path("/proc/self/clear_refs")
        self._resident_mark_is_ours = os.access(reset, os.W_OK)
        if self._resident_mark_is_ours:
            reset.write_text("5")  # VmHWM starts anew; nothing resets VmPeak
        self._start = _vm_bytes()

    def limit(self, limit_bytes: int) -> None:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = _vm_bytes()["VmData"] + limit_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))

    def lift(self) -> None:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))

    def peak_bytes(self) -> int | None:
        now = _vm_bytes()
        if now["VmPeak"] > self._start["VmPeak"]:
            return now["VmPeak"] - self._start["VmSize"]
        # Work so small that the warm-up took more: its mark stands, but that of resident pages tells.
        return now["VmHWM"] - self._start["VmRSS"] if self._resident_mark_is_ours else None


def _vm_bytes() -> dict[str, int]:
    """The lines of /proc/self/status about memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Vm")}


class _UnlimitedMemory:
    """A CPU whose system has no limit on what a process allocates."""

    def limit(self, limit_bytes: int) -> None:
        raise MissingError(
            f"a memory limit of {limit_bytes} bytes cannot be enforced on a CPU under {sys.platform}",
            hint="it needs Linux; predict with --predict-only instead",
        )

    def lift(self) -> None:
        """Nothing was limited."""

    def peak_bytes(self) -> int | None:
        return None


class _AcceleratorMemory:
    """An accelerator's memory through torch's caching allocator."""

    def __init__(self, device: str) -> None:
        import torch

        self._device = torch.device(device)
        self._module: Any = torch.get_device_module(self._device)
        if hasattr(self._module, "reset_peak_memory_stats"):
            self._module.reset_peak_memory_stats()

    def limit(self, limit_bytes: int) -> None:
        if not hasattr(self._module, "set_per_process_memory_fraction"):
            raise MissingError(
                f"torch cannot limit the memory of {self._device}", hint="leave --limit out, or use --predict-only"
            )
        self._module.set_per_process_memory_fraction(min(1.0, limit_bytes / self._total_bytes()))

    def _total_bytes(self) -> int:
        if hasattr(self._module, "mem_get_info"):
            return int(self._module.mem_get_info()[1])
        return int(self._module.recommended_max_memory())  # MPS

    def lift(self) -> None:
        """The allocator's limit is on the device only: writing a failure down needs none of it."""

    def peak_bytes(self) -> int | None:
        if hasattr(self._module, "max_memory_reserved"):
            return int(self._module.max_memory_reserved())
        return None
