"""What is in this machine: the device that work would run on, and the environment that a record keeps."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any, Final

import flopwatch
from flopwatch.device.catalog import find_device, why_unknown
from flopwatch.device.cpu import cpu_model, detect_cpu, n_affinity_cores, quota_cores
from flopwatch.device.machine import Accelerator, Machine
from flopwatch.errors import InputError, MissingError

_BACKENDS: Final = ("auto", "cpu", "cuda", "rocm", "xpu", "mps")


def detect(device: str = "auto") -> Machine:
    """The machine seen through `device`: `auto`, `cpu`, `cuda`, `cuda:1`, `rocm`, `xpu` or `mps`.

    torch is imported only when an accelerator can be there. Raises InputError for another word, and MissingError
    (exit code 4) for an accelerator that is not here.
    """
    if not isinstance(device, str):
        raise InputError(f"device={device!r} is no text", hint=f"use {', '.join(_BACKENDS)} or cuda:1")
    backend, _, index = device.partition(":")
    if backend not in _BACKENDS or (index and not index.isdecimal()) or (index and backend in {"auto", "cpu"}):
        raise InputError(f"{device!r} is no device of this machine", hint=f"use {', '.join(_BACKENDS)} or cuda:1")
    found = None if backend == "cpu" else _accelerator(backend, int(index or 0))
    if found is None and backend not in {"auto", "cpu"}:
        raise MissingError(f"no {device} device is here ({why_no_accelerator()})", hint="use --device cpu")
    if found is not None:
        return machine_of(found)
    cpu = detect_cpu()
    reason = "a CPU's peak depends on its clock under load: measure it with `flopwatch peak`"
    return Machine(kind="cpu", name=cpu.model or platform.machine(), cpu=cpu, why_no_device=reason)


def machine_of(found: Accelerator) -> Machine:
    """The machine around an accelerator, with the row of the catalogue that its name, SMs and memory lead to."""
    reported = {"sm_count": found.sm_count, "memory_bytes": found.memory_total_bytes}
    return Machine(
        kind=found.kind,
        name=found.name,
        cpu=detect_cpu(),
        accelerator=found,
        device=find_device(found.name, **reported),
        why_no_device=why_unknown(found.name, **reported),
    )


def torch_version() -> str | None:
    """The version of the torch that would be imported, without importing it; None when there is none.

    Read from torch/version.py: importlib.metadata alone costs more than the rest of a short command.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name("version.py")
    found = re.search(r"^__version__ = ['\"](.+?)['\"]", path.read_text(encoding="utf-8"), re.MULTILINE)
    return found.group(1) if found else None


def why_no_accelerator() -> str:
    """Why torch shows no accelerator here."""
    version = torch_version()
    if version is None:
        return "torch is not installed"
    if _is_cpu_build(version):
        return f"torch {version} is built for CPUs only"
    return f"torch {version} finds none; is the driver installed?"


def _is_cpu_build(version: str) -> bool:
    """Whether this torch can only ever see a CPU; macOS builds carry no suffix and know MPS."""
    return version.endswith("+cpu") and sys.platform != "darwin"


def _accelerator(backend: str, index: int) -> Accelerator | None:
    version = torch_version()
    if version is None or _is_cpu_build(version):
        return None
    from flopwatch.device.accelerator import find_accelerator

    return find_accelerator(backend, index)


def environment(machine: Machine | None = None) -> dict[str, Any]:
    """What a record keeps of where it was made: versions, OS, CPU, memory, threads, device. No names of host or user.

    Never imports torch. Without a `machine` only what every system has at hand is told.
    """
    here: dict[str, Any] = {
        "flopwatch": flopwatch.__version__,
        "python": platform.python_version(),
        "torch": torch_version(),
        "os": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "n_logical_cores": os.cpu_count(),
        "n_affinity_cores": n_affinity_cores(),
        "quota_cores": quota_cores(),
        "n_threads": _n_threads(),
    }
    if machine is not None:
        here["memory_total_bytes"] = machine.cpu.memory_total_bytes
        here["device"] = machine.name
        here["device_kind"] = machine.kind
    if machine is not None and machine.accelerator is not None:
        found = machine.accelerator
        here |= {
            "driver": found.driver,
            "sm_count": found.sm_count,
            "device_memory_bytes": found.memory_total_bytes,
            "power_limit_w": found.power_limit_w,
            "is_mig": found.is_mig,
        }
    return here


def _n_threads() -> int | None:
    """Threads that OpenMP was told to use, or None when it takes as many as there are cores."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdecimal() else None
