"""The peak of this machine, measured: matmul FLOP/s and memory bandwidth, kept until the environment changes."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from flopwatch.device.detect import environment
from flopwatch.device.machine import Machine
from flopwatch.errors import InputError, ProbeError
from flopwatch.probe.protocol import ProbeOutcome, ProbeRequest
from flopwatch.probe.runner import run_probe
from flopwatch.record import METHOD, PeakResult
from flopwatch.store import Store

Run = Callable[[ProbeRequest], ProbeOutcome]

FULL_S: Final = 16.0
"""Time for the search of one dtype that was asked for."""
EACH_S: Final = 8.0
"""Time for each of several dtypes."""
QUICK_S: Final = 4.0
"""Time where a benchmark or report only needs a denominator."""
_TIMEOUT_S: Final = 300.0
_DTYPES: Final = {
    "cpu": ("fp32", "bf16", "fp16", "fp8", "int8"),
    "cuda": ("fp32", "tf32", "bf16", "fp16", "fp8", "int8"),
    "rocm": ("fp32", "tf32", "bf16", "fp16", "fp8"),
    "xpu": ("fp32", "bf16", "fp16", "int8"),
    "mps": ("fp32", "bf16", "fp16"),
}
# What the figure depends on. A change of any makes a kept peak one of another machine.
_FINGERPRINT: Final = (
    "device", "device_kind", "driver", "power_limit_w", "is_mig", "sm_count",
    "torch", "cpu", "n_affinity_cores", "quota_cores", "n_threads",
)  # fmt: skip


class StoredPeak(msgspec.Struct, frozen=True, kw_only=True):
    """A peak measured here before. With `changes` it is of another environment, and no longer the denominator."""

    result: PeakResult
    created: str
    changes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing that it depends on has changed since."""
        return not self.changes

    @property
    def is_steady(self) -> bool:
        """Whether the machine was quiet; if not, the figure is a lower bound, and an MFU of it an upper one."""
        return bool(self.result.details["is_steady"])

    def summary(self) -> dict[str, Any]:
        """The figures and how good they are, as plain data."""
        return {
            "dtype": self.result.dtype,
            "flops_per_s": self.result.flops_per_s,
            "bandwidth_bytes_per_s": self.result.bandwidth_bytes_per_s,
            "created": self.created,
            "is_steady": self.is_steady,
        }

    @property
    def source(self) -> str:
        """Where it comes from, as it stands beside a percentage."""
        quality = "" if self.is_steady else " while the machine was busy"
        return f"{self.result.dtype} matmul measured here on {self.created[:10]}{quality}"


def dtypes_of(machine: Machine) -> tuple[str, ...]:
    """The dtypes that are worth a try on this kind of device."""
    return _DTYPES[machine.kind]


def measure_peak(
    dtype: str,
    machine: Machine,
    *,
    budget_s: float = FULL_S,
    bandwidth: Mapping[str, Any] | None = None,
    run: Run = run_probe,
) -> PeakResult:
    """The fastest matmul of `dtype` that a search over shapes finds, in a process of its own.

    `bandwidth` is what `measure_bandwidth` gave, to stand beside it. Raises InputError for a dtype that the device
    cannot multiply, and ProbeError when the measurement itself fails.
    """
    found = _ask("matmul_peak", {"dtype": dtype, "budget_s": budget_s}, machine, run)
    published = machine.device.peak(dtype) if machine.device is not None else None
    datasheet = published.dense_flops_per_s if published is not None else None
    return PeakResult(
        device=machine.name,
        dtype=dtype,
        flops_per_s=found["flops_per_s"],
        shape=found["shape"],
        bandwidth_bytes_per_s=None if bandwidth is None else bandwidth["bytes_per_s"],
        datasheet_flops_per_s=datasheet,
        fraction=None if datasheet is None else found["flops_per_s"] / datasheet,
        details={
            **{name: found[name] for name in found if name not in {"flops_per_s", "shape", "stage", "dtype"}},
            "notes": [*found["notes"], *_power_notes(machine)],
            "budget_s": budget_s,
            "bandwidth": dict(bandwidth) if bandwidth is not None else None,
        },
    )


def measure_bandwidth(machine: Machine, *, budget_s: float = 3.0, run: Run = run_probe) -> dict[str, Any]:
    """Memory bandwidth by copy and triad: `bytes_per_s` is the higher of the two medians, both are kept."""
    found = _ask("bandwidth", {"budget_s": budget_s}, machine, run)
    return {"bytes_per_s": max(found["copy"]["bytes_per_s"], found["triad"]["bytes_per_s"]), **found}


def _power_notes(machine: Machine) -> list[str]:
    """That the power limit is below the card's own, which lowers what can be reached."""
    found = machine.accelerator
    if found is None or found.power_limit_w is None or found.default_power_limit_w is None:
        return []
    if found.power_limit_w >= found.default_power_limit_w:
        return []
    return [f"the power limit is {found.power_limit_w:g} W where the card's own is {found.default_power_limit_w:g} W"]


def _ask(job: str, arguments: dict[str, Any], machine: Machine, run: Run) -> dict[str, Any]:
    device = machine.torch_device
    request = ProbeRequest(job=job, arguments={"device": device, **arguments}, device=device, timeout_s=_TIMEOUT_S)
    outcome = run(request)
    if outcome.failure == "InputError":
        raise InputError(outcome.error or f"{device} cannot run {job}")
    if outcome.result is None:
        raise ProbeError(
            f"the peak of {machine.name} could not be measured: {outcome.error or outcome.outcome}",
            hint="`flopwatch doctor` shows what is here; --peak-tflops gives a peak by hand",
        )
    return {**outcome.result, "n_threads": outcome.n_threads}


def fingerprint(machine: Machine) -> dict[str, Any]:
    """What a measured peak depends on: device, driver, power limit, torch, cores and threads of this process."""
    here = environment(machine)
    return {"method": METHOD, **{name: here.get(name) for name in _FINGERPRINT}}


def keep_peak(store: Store, machine: Machine, result: PeakResult) -> bool:
    """Keep a peak as this machine's denominator; False when a better measurement of the same environment stays.

    One taken on a quiet machine is not replaced by one from a busy one, nor a longer search by a shorter, nor, of two
    lower bounds, the higher by the lower.
    """
    old = find_stored_peak(store, machine, result.dtype)
    if old is not None and old.holds and _quality(old.result) > _quality(result):
        return False
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    data = {"fingerprint": fingerprint(machine), "created": now, "result": msgspec.to_builtins(result)}
    store.put_item("peak", _key(machine, result.dtype), data)
    return True


def find_stored_peak(store: Store, machine: Machine, dtype: str) -> StoredPeak | None:
    """The peak of `dtype` measured on this device before, newest first, or None.

    When the environment has changed since, `changes` says in what, and the peak no longer holds.
    """
    here = fingerprint(machine)
    exact = store.get_item("peak", _key(machine, dtype))
    if exact is not None:
        return _stored(exact, here)
    others = [item.data for item in store.items() if item.kind == "peak" and item.key.startswith(f"{dtype}:")]
    same_device = [data for data in others if data["fingerprint"]["device"] == here["device"]]
    return _stored(same_device[-1], here) if same_device else None


def peak_here(
    dtype: str, machine: Machine, store: Store, *, run: Run = run_probe, on_measure: Callable[[str], None] | None = None
) -> StoredPeak:
    """The measured denominator of this machine: the stored one while it holds, else a quick measurement, kept.

    One that was taken on a busy machine is a lower bound, and is tried again. `on_measure` is told why a measurement
    is needed before it starts.
    """
    stored = find_stored_peak(store, machine, dtype)
    if stored is not None and stored.holds and stored.is_steady:
        return stored
    if on_measure is not None:
        on_measure(why_measure(stored, dtype))
    bandwidth = measure_bandwidth(machine, budget_s=1.0, run=run)
    result = measure_peak(dtype, machine, budget_s=QUICK_S, bandwidth=bandwidth, run=run)
    keep_peak(store, machine, result)
    kept = find_stored_peak(store, machine, dtype)
    assert kept is not None
    return kept


def why_measure(stored: StoredPeak | None, dtype: str) -> str:
    """Why a peak must be measured now: there is none yet, or what has changed since the last one."""
    if stored is None:
        return f"no {dtype} peak was measured here yet"
    if stored.holds:
        return f"the {dtype} peak of {stored.created[:10]} was measured while the machine was busy"
    return f"the {dtype} peak of {stored.created[:10]} no longer holds: {'; '.join(stored.changes)}"


def _stored(data: Mapping[str, Any], here: Mapping[str, Any]) -> StoredPeak:
    then = data["fingerprint"]
    changes = [f"{name} {then.get(name)} -> {here[name]}" for name in here if then.get(name) != here[name]]
    result = msgspec.convert(data["result"], PeakResult)
    return StoredPeak(result=result, created=data["created"], changes=tuple(changes))


def _key(machine: Machine, dtype: str) -> str:
    text = msgspec.json.encode(fingerprint(machine), order="sorted")
    return f"{dtype}:{hashlib.sha256(text).hexdigest()[:16]}"


def _quality(result: PeakResult) -> tuple[float, ...]:
    if result.details["is_steady"]:
        return 1.0, result.details["budget_s"]
    return 0.0, result.flops_per_s
