"""The CPU as this process sees it: model, cores it may use, instruction sets, memory it may allocate."""

from __future__ import annotations

import functools
import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

_KNOWN_ISA: Final = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni",
    "amx_tile", "amx_bf16", "amx_int8", "amx_fp16", "asimd", "sve", "sve2", "bf16", "i8mm",
)  # fmt: skip
_UNLIMITED: Final = 1 << 60  # cgroup v1 writes "no limit" as a number near 2^63


class Cpu(msgspec.Struct, frozen=True, kw_only=True):
    """The processor, and what this process may use of it. Unknown is None.

    `n_usable_cores` is the smaller of the affinity mask and the cgroup's quota (which may be a fraction).
    `memory_free_bytes` is what can still be allocated: the least of available memory, cgroup and RLIMIT room.
    """

    model: str | None
    n_logical_cores: int
    n_physical_cores: int | None
    n_affinity_cores: int
    quota_cores: float | None
    instruction_sets: tuple[str, ...]
    cache_bytes: int | None
    memory_total_bytes: int
    memory_free_bytes: int
    memory_limit: str

    @property
    def n_usable_cores(self) -> float:
        """Cores' worth of time that this process gets."""
        return self.n_affinity_cores if self.quota_cores is None else min(self.n_affinity_cores, self.quota_cores)


def detect_cpu(root: Path = Path("/")) -> Cpu:
    """The CPU now. `root` is where /proc and /sys are found (another folder in tests)."""
    import psutil

    total, free, limit = _memory(root)
    return Cpu(
        model=cpu_model(root),
        n_logical_cores=os.cpu_count() or 1,
        n_physical_cores=psutil.cpu_count(logical=False),
        n_affinity_cores=n_affinity_cores(),
        quota_cores=quota_cores(root),
        instruction_sets=_instruction_sets(root),
        cache_bytes=_last_level_cache_bytes(root),
        memory_total_bytes=total,
        memory_free_bytes=free,
        memory_limit=limit,
    )


def n_affinity_cores() -> int:
    """Logical cores that this process may be scheduled on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model(root: Path = Path("/")) -> str | None:
    """The processor's marketing name, or None."""
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string")
    found = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", _cpuinfo(root), re.MULTILINE)
    return found.group(1).strip() if found else (platform.processor() or None)


def quota_cores(root: Path = Path("/")) -> float | None:
    """Cores' worth of CPU time that the cgroup allows, the tightest of all levels; None without a quota."""
    quotas = []
    for folder in _cgroup_folders(root, "cpu"):
        text = _read(folder / "cpu.max").split()  # v2: "200000 100000" or "max 100000"
        if len(text) == 2 and text[0] != "max":
            quotas.append(int(text[0]) / int(text[1]))
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota is not None and quota > 0 and period:
            quotas.append(quota / period)
    return min(quotas, default=None)


def memory_limit_bytes(root: Path = Path("/")) -> int | None:
    """The cgroup's memory limit, the tightest of all levels; None without one."""
    limits = [limit for limit, _ in _cgroup_memory(root)]
    return min(limits, default=None)


def _memory(root: Path) -> tuple[int, int, str]:
    """Total and free bytes for this process, and what bounds the free ones."""
    import psutil

    machine = psutil.virtual_memory()
    total = min(machine.total, memory_limit_bytes(root) or machine.total)
    rooms = {"available memory": machine.available}
    for limit, used in _cgroup_memory(root):
        rooms["cgroup"] = min(limit - used, rooms.get("cgroup", limit))
    rooms |= _rlimit_rooms()
    tightest = min(rooms, key=lambda name: rooms[name])
    return total, max(0, rooms[tightest]), tightest


def _rlimit_rooms() -> dict[str, int]:
    """Bytes left under RLIMIT_AS and RLIMIT_DATA, where they are set."""
    if sys.platform == "win32":
        return {}
    import resource

    import psutil

    used = psutil.Process().memory_info()
    rooms = {}
    for name, now in (("RLIMIT_AS", used.vms), ("RLIMIT_DATA", used.data if sys.platform == "linux" else used.rss)):
        limit = resource.getrlimit(getattr(resource, name))[0]
        if limit != resource.RLIM_INFINITY:
            rooms[name] = limit - now
    return rooms


def _cgroup_memory(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use of every level of the memory cgroup that has a limit. Cache that can be dropped is not use."""
    for folder in _cgroup_folders(root, "memory"):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
        found = re.search(r"^(?:total_)?inactive_file (\d+)$", _read(folder / "memory.stat"), re.MULTILINE)
        if limit is not None and limit < _UNLIMITED:
            yield limit, used - (int(found.group(1)) if found else 0)


def _cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's cgroup for a controller, from its own up to the top, v1 and v2."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup"
        top = top / controllers if controllers and (top / controllers).is_dir() else top
        if controllers and not (root / "sys/fs/cgroup" / controllers).is_dir():
            top = root / "sys/fs/cgroup" / controller
        folder = top / path.lstrip("/")
        while folder != top:
            yield folder
            folder = folder.parent
        yield top


def _instruction_sets(root: Path) -> tuple[str, ...]:
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpuinfo(root), re.MULTILINE)
    present = set(found.group(1).split()) if found else set()
    return tuple(name for name in _KNOWN_ISA if name in present)


def _last_level_cache_bytes(root: Path) -> int | None:
    """Bytes of the largest cache that core 0 sees."""
    sizes = []
    for path in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        found = re.fullmatch(r"(\d+)([KMG]?)", _read(path).strip())
        if found:
            sizes.append(int(found.group(1)) << {"": 0, "K": 10, "M": 20, "G": 30}[found.group(2)])
    if not sizes and sys.platform == "darwin":
        text = _sysctl("hw.l2cachesize")
        sizes = [int(text)] if text and text.isdecimal() else []
    return max(sizes, default=None)


@functools.cache
def _cpuinfo(root: Path) -> str:
    return _read(root / "proc/cpuinfo").partition("\n\n")[0]  # the first core stands for all


def _read(path: Path) -> str:
    """The text of a file of the kernel; empty where there is none, as on other systems and in some containers."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def _sysctl(name: str) -> str | None:
    """A value of macOS's sysctl, or None."""
    import subprocess

    done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
