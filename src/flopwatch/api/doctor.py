"""`doctor`: what is here, what will be n/a, and how to get it. One line for each."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import flopwatch
from flopwatch.device import user_file
from flopwatch.device.detect import torch_version, why_no_accelerator
from flopwatch.device.machine import Accelerator, Machine
from flopwatch.errors import FlopwatchError
from flopwatch.measure.peak import StoredPeak, dtypes_of, find_stored_peak
from flopwatch.record import CheckResult
from flopwatch.store import Store
from flopwatch.units import format_bytes, format_rate

_CHROMIUM: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "msedge")
# Package, what it is for, what to install.
_PACKAGES: Final = (
    ("transformers", "config.json and hf: models by trace", "pip install 'flopwatch[hf]'"),
    ("lightning", "the Lightning callback", "pip install 'flopwatch[lightning]'"),
    ("ipykernel", "the notebook", "pip install 'flopwatch[notebook]'"),
)


def doctor(machine: Machine | None, *, store: Path | None = None, folder: Path | None = None) -> Iterator[CheckResult]:
    """What this machine has, line by line. `machine` is None where torch is missing and nothing could be asked."""
    yield _ok("flopwatch", f"{flopwatch.__version__}, Python {platform.python_version()}, {platform.system()}")
    yield _torch()
    if machine is not None:
        yield _cpu(machine)
        yield _accelerator(machine)
        yield _datasheet(machine)
        yield _measured(machine, store)
    yield _nvml(machine)
    for package, purpose, way_out in _PACKAGES:
        is_here = importlib.util.find_spec(package) is not None
        yield _ok(package, purpose) if is_here else _missing(package, f"not installed: {purpose} is n/a", way_out)
    yield _chromium()
    yield _store(store)
    yield from _files(folder or Path.cwd())


def _ok(name: str, found: str) -> CheckResult:
    return CheckResult(name=name, outcome="ok", found=found)


def _missing(name: str, found: str, way_out: str | None = None) -> CheckResult:
    return CheckResult(name=name, outcome="n/a", found=found, way_out=way_out)


def _torch() -> CheckResult:
    version = torch_version()
    if version is None:
        what = "not installed: what runs or traces a model is n/a (fit, bench, peak, report, --trace)"
        return _missing("torch", what, "pip install torch")
    return _ok("torch", version)


def _cpu(machine: Machine) -> CheckResult:
    cpu = machine.cpu
    cores = f"{cpu.n_usable_cores:g} of {cpu.n_logical_cores} cores usable"
    if cpu.quota_cores is not None:
        cores += f" (quota {cpu.quota_cores:g})"
    memory = (
        f"{format_bytes(cpu.memory_free_bytes)} of {format_bytes(cpu.memory_total_bytes)} free ({cpu.memory_limit})"
    )
    sets = " ".join(cpu.instruction_sets) or "no wide instruction sets seen"
    return _ok("CPU", f"{cpu.model or 'unknown'}, {cores}, {memory}, {sets}")


def _accelerator(machine: Machine) -> CheckResult:
    found = machine.accelerator
    if found is None:
        return _missing("accelerator", f"none: {why_no_accelerator()}", "work runs on the CPU")
    facts = [f"{found.name} ({machine.torch_device})"]
    if found.memory_free_bytes is not None and found.memory_total_bytes is not None:
        facts.append(f"{format_bytes(found.memory_free_bytes)} of {format_bytes(found.memory_total_bytes)} free")
    facts += _state(found)
    return _ok("accelerator", ", ".join(facts))


def _state(found: Accelerator) -> list[str]:
    facts = []
    if found.sm_count is not None:
        facts.append(f"{found.sm_count} SMs")
    if found.driver is not None:
        facts.append(f"driver {found.driver}")
    if found.clock_hz is not None and found.max_clock_hz is not None:
        facts.append(f"clock {found.clock_hz / 1e6:.0f} of {found.max_clock_hz / 1e6:.0f} MHz")
    if found.power_limit_w is not None:
        default = found.default_power_limit_w
        lowered = f" (default {default:g} W)" if default is not None and default != found.power_limit_w else ""
        facts.append(f"power limit {found.power_limit_w:g} W{lowered}")
    if found.throttle_reasons:
        facts.append(f"held down by {', '.join(found.throttle_reasons)}")
    return [*facts, *(f"n/a: {reason}" for reason in found.unknown)]


def _datasheet(machine: Machine) -> CheckResult:
    if machine.device is None:
        return _missing("datasheet peak", machine.why_no_device or "none")
    rates = [
        f"{peak.dtype} {format_rate(peak.dense_flops_per_s)}"
        for peak in machine.device.peaks
        if peak.is_default and peak.dense_flops_per_s is not None
    ]
    return _ok("datasheet peak", f"{machine.device.label} ({machine.device.origin}): {', '.join(rates)}")


def _measured(machine: Machine, path: Path | None) -> CheckResult:
    """Measured peaks that hold, or why those that are kept do not."""
    name, way_out = "measured peak", "run `flopwatch peak` (bench and report measure it in 6 s when needed)"
    try:
        with Store(path) as store:
            found = {dtype: find_stored_peak(store, machine, dtype) for dtype in dtypes_of(machine)}
    except FlopwatchError as error:
        return _missing(name, f"no store: {error.message}", error.hint)
    stored = [peak for peak in found.values() if peak is not None]
    valid = [_stored_text(peak) for peak in stored if peak.holds]
    if valid:
        return _ok(name, ", ".join(valid))
    if stored:
        changes = "; ".join(dict.fromkeys(change for peak in stored for change in peak.changes))
        return _missing(name, f"what was measured no longer holds: {changes}", way_out)
    return _missing(name, "nothing measured yet", way_out)


def _stored_text(peak: StoredPeak) -> str:
    quality = "" if peak.is_steady else ", a lower bound: the machine was busy"
    return f"{peak.result.dtype} {format_rate(peak.result.flops_per_s)} ({peak.created[:10]}{quality})"


def _nvml(machine: Machine | None) -> CheckResult:
    name = "nvidia-ml-py"
    is_here = importlib.util.find_spec("pynvml") is not None
    if machine is not None and machine.kind != "cuda":
        return _missing(name, f"{'installed' if is_here else 'not installed'}, but no NVIDIA device to ask")
    if is_here:
        return _ok(name, "clocks, power limit and throttling of NVIDIA devices")
    return _missing(name, "not installed: clocks, power limit and throttling are n/a", "pip install nvidia-ml-py")


def _chromium() -> CheckResult:
    path = next((found for name in _CHROMIUM if (found := shutil.which(name))), None)
    if path is None:
        return _missing(
            "chromium", "none on PATH: only the tests of the HTML page need one", "any browser shows the page"
        )
    return _ok("chromium", path)


def _store(path: Path | None) -> CheckResult:
    try:
        with Store(path) as store:
            return _ok("results store", str(store.path))
    except FlopwatchError as error:
        return CheckResult(name="results store", outcome="failed", found=error.message, way_out=error.hint)


def _files(folder: Path) -> Iterator[CheckResult]:
    """Files with options and devices of the user's own."""
    path = user_file.user_file_path()
    try:
        own = user_file.user_devices()
    except FlopwatchError as error:
        yield CheckResult(name="device file", outcome="failed", found=error.message, way_out=error.hint)
    else:
        yield _ok("device file", f"{path}: {len(own)} devices" if path.is_file() else f"none ({path} would be read)")
    here = [name for name in ("flopwatch.toml", "pyproject.toml") if (folder / name).is_file()]
    yield _ok("settings", f"{', '.join(here)} in this folder" if here else "no flopwatch.toml or pyproject.toml here")
