"""`doctor --selftest`: does what flopwatch rests on hold on this device? Each check with its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from flopwatch.cost.memory import estimate_memory
from flopwatch.device.machine import Machine
from flopwatch.errors import FlopwatchError, ProbeError
from flopwatch.measure.peak import QUICK_S, measure_peak
from flopwatch.model.spec import ModelSpec
from flopwatch.probe.protocol import ProbeOutcome, ProbeRequest
from flopwatch.record import CheckResult
from flopwatch.units import format_bytes, format_percent, format_rate, format_seconds
from flopwatch.workload import Workload

Run = Callable[[ProbeRequest], ProbeOutcome]

_MIB: Final = 1 << 20
_LIMIT_BYTES: Final = 256 * _MIB
_BLOCK_BYTES: Final = 65 * _MIB + 4096  # odd, so that a rounding shows
_MOST_ROUNDING: Final = 0.04  # a GPU's allocator rounds a block of this size up to 2 MiB
_MOST_TICK_S: Final = 1e-5
_MOST_SKEW: Final = 0.01
_MOST_EVENT_SKEW: Final = 0.05
_MOST_MEMORY_ERROR: Final = 0.02
_LEAST_PEAK: Final = 0.30
_MOST_PEAK: Final = 1.30  # GeForce cards reach 108 to 121 % of nominal
_TINY: Final = ModelSpec(
    name="selftest", n_layers=3, d_model=192, n_heads=3, d_ff=768, vocab_size=5003, max_seq_len=256
)


def selftest(machine: Machine, run: Run) -> Iterator[CheckResult]:
    """Each check as soon as it has run; one that cannot run here is n/a, with the reason."""
    for name, check in (
        ("out-of-memory recovery", _recovers),
        ("memory statistics", _memory_statistics),
        ("clocks", _clocks),
        ("peak against datasheet", _peak),
        ("predicted against measured memory", _predicted_memory),
    ):
        try:
            yield check(name, machine, run)
        except FlopwatchError as error:
            yield CheckResult(name=name, outcome="failed", found=str(error))


def _ask(run: Run, job: str, machine: Machine, *, limit_bytes: int | None = None, **arguments: Any) -> ProbeOutcome:
    device = machine.torch_device
    asked = {"device": device, **arguments}
    return run(
        ProbeRequest(job=job, arguments=asked, device=device, limit_bytes=limit_bytes, timeout_s=120, tight_memory=True)
    )


def _answer(outcome: ProbeOutcome) -> dict[str, Any]:
    if outcome.result is None:
        raise ProbeError(f"the check ended with {outcome.outcome}: {outcome.error}")
    return outcome.result


def _check(name: str, *, holds: bool, found: str) -> CheckResult:
    return CheckResult(name=name, outcome="ok" if holds else "failed", found=found)


def _recovers(name: str, machine: Machine, run: Run) -> CheckResult:
    """Four times the limit must end as out of memory, and a quarter of it must run right after."""
    over = _ask(run, "allocate", machine, limit_bytes=_LIMIT_BYTES, n_bytes=4 * _LIMIT_BYTES)
    under = _ask(run, "allocate", machine, limit_bytes=_LIMIT_BYTES, n_bytes=_LIMIT_BYTES // 4)
    found = (
        f"{format_bytes(4 * _LIMIT_BYTES)} under a limit of {format_bytes(_LIMIT_BYTES)}: {over.outcome};"
        f" {format_bytes(_LIMIT_BYTES // 4)} right after: {under.outcome}"
    )
    return _check(name, holds=over.outcome == "oom" and under.is_ok, found=found)


def _memory_statistics(name: str, machine: Machine, run: Run) -> CheckResult:
    """The allocator's own count of one block, which may be rounded up and must not be less."""
    answer = _answer(_ask(run, "allocate", machine, n_bytes=_BLOCK_BYTES))
    asked, counted = answer["asked_bytes"], answer["counted_bytes"]
    if counted is None:
        return CheckResult(name=name, outcome="n/a", found=f"{machine.torch_device} has no memory statistics")
    found = f"a tensor of {asked:,} bytes is counted as {counted:,}"
    return _check(name, holds=asked <= counted <= asked * (1 + _MOST_ROUNDING), found=found)


def _clocks(name: str, machine: Machine, run: Run) -> CheckResult:
    """A fine tick, two clocks of the system that agree, and the device's own timer beside them."""
    answer = _answer(_ask(run, "clocks", machine))
    skew = abs(answer["monotonic_s"] / answer["wall_s"] - 1)
    found = f"tick {format_seconds(answer['tick_s'])}, two clocks apart by {100 * skew:.3f} %"
    holds = answer["tick_s"] <= _MOST_TICK_S and skew <= _MOST_SKEW
    if answer["event_s"] is not None:
        event_skew = abs(answer["event_s"] / answer["wall_s"] - 1)
        found += f", the device's timer by {100 * event_skew:.1f} %"
        holds = holds and event_skew <= _MOST_EVENT_SKEW
    return _check(name, holds=holds, found=found)


def _peak(name: str, machine: Machine, run: Run) -> CheckResult:
    """The measured matmul rate in the published one's neighbourhood; n/a where nothing is published."""
    dtype = "fp32" if machine.kind == "cpu" else "bf16"
    if machine.device is not None and machine.device.peak(dtype) is None:
        dtype = "fp16" if machine.device.peak("fp16") is not None else "fp32"
    result = measure_peak(dtype, machine, budget_s=QUICK_S, run=run)
    measured = f"{dtype} {format_rate(result.flops_per_s)} measured"
    if result.fraction is None or result.datasheet_flops_per_s is None:
        return CheckResult(
            name=name, outcome="n/a", found=f"{measured}; {machine.why_no_device or 'no datasheet peak'}"
        )
    found = f"{measured}, {format_percent(result.fraction)} of {format_rate(result.datasheet_flops_per_s)}"
    return _check(name, holds=_LEAST_PEAK <= result.fraction <= _MOST_PEAK, found=found)


def _predicted_memory(name: str, machine: Machine, run: Run) -> CheckResult:
    """The closed form's peak of a small training step beside the exact count of one that ran."""
    device_type = machine.torch_device.split(":")[0]
    workload = Workload(batch=5, seq_len=128, phase="train", dtype="fp32")
    is_foreach = device_type == "cuda"  # AdamW's default there
    predicted = estimate_memory(_TINY, workload, foreach=is_foreach, device_type=device_type).peak_bytes
    outcome = _ask(
        run, "fit_step", machine, spec=_TINY.to_dict(), workload=workload.to_dict(), n_steps=3, count_tensors=True
    )  # fmt: skip
    measured = _answer(outcome)["tensor_peak_bytes"]
    if measured is None:
        return CheckResult(name=name, outcome="n/a", found=f"{machine.torch_device} has no memory statistics")
    error = predicted / measured - 1
    found = f"predicted {format_bytes(predicted)}, measured {format_bytes(measured)}: {100 * error:+.2f} %"
    return _check(name, holds=abs(error) <= _MOST_MEMORY_ERROR, found=found)
