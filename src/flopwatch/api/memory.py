"""fw.memory: the peak of a step by part, predicted; on a card of the catalogue, whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flopwatch.api.count import default_seq_len, resolve_spec
from flopwatch.cost.eager.tape import Peak, Tape
from flopwatch.cost.eager.tuning import Tuning, tuning_of
from flopwatch.cost.memory import MemoryEstimate, estimate_memory, step_tape
from flopwatch.device.allocator import Usage, replay
from flopwatch.device.catalog import load_device
from flopwatch.device.device import Device
from flopwatch.errors import InputError
from flopwatch.model.spec import ModelSpec
from flopwatch.record import MemoryResult
from flopwatch.trace.replay import n_steps_of
from flopwatch.workload import Workload

_N_POINTS: Final = 200
_CONTEXT: Final = "the driver's context and loaded kernels are not in it (0.5 to 0.9 GiB on an A100; measured by `fit`)"


def memory(
    model: str | ModelSpec,
    workload: Workload | None = None,
    *,
    device: str | None = None,
    limit_bytes: int | None = None,
    trace: bool = False,
    tuning: Tuning | None = None,
    changes: Mapping[str, str] | None = None,
) -> MemoryResult:
    """Peak memory of one step of `workload` by part, from the spec alone, or (`trace`) from a run without data.

    With `device`, a card of the catalogue, the step is replayed through a model of torch's allocator: the peak is what
    it reserves, and `details["device"]` says whether that fits the card (or `limit_bytes`), with what margin. Raises
    SpecError for what cannot be estimated, InputError for what contradicts itself.
    """
    spec = resolve_spec(model, changes)
    work = workload or Workload(seq_len=default_seq_len(spec), phase="train")
    spec.check_seq_len(work.seq_len)
    work.check_precision()
    if trace and (device is not None or tuning is not None):
        raise InputError(
            "a trace is of the reference network as a CPU runs it, all parameters trained",
            hint="leave out --trace, or the device and the tuning",
        )
    if limit_bytes is not None and limit_bytes < 1:
        raise InputError(f"a limit of {limit_bytes} bytes leaves nothing", hint="write it like --limit 39800MiB")
    if device is not None:
        return _on_card(spec, work, load_device(device), limit_bytes, tuning)
    if limit_bytes is not None:
        raise InputError("a limit needs a device whose allocator it limits", hint="give --device, or use fit --limit")
    return _traced(spec, work) if trace else _closed(spec, work, tuning)


def _closed(spec: ModelSpec, work: Workload, tuning: Tuning | None) -> MemoryResult:
    tape = step_tape(spec, work, tuning=tuning)
    return memory_result(spec.name, work, estimate_memory(spec, work, tuning=tuning), tape, source="closed-form")


def _traced(spec: ModelSpec, work: Workload) -> MemoryResult:
    from flopwatch.trace.memory_view import memory_tape, trace_memory

    tape = memory_tape(spec, work)
    return memory_result(spec.name, work, trace_memory(tape), tape, source="trace")


def _on_card(
    spec: ModelSpec, work: Workload, card: Device, limit_bytes: int | None, tuning: Tuning | None
) -> MemoryResult:
    is_gpu = card.unit != "CPU"
    tuning = tuning or tuning_of(work, default="foreach" if is_gpu else "single")
    device_type = "cuda" if is_gpu else "cpu"
    estimate = estimate_memory(spec, work, device_type=device_type, tuning=tuning)
    tape = step_tape(spec, work, device_type=device_type, tuning=tuning, n_steps=n_steps_of(work))
    usage = _replayed(tape, limit_bytes or card.memory_bytes) if is_gpu else None
    result = memory_result(spec.name, work, estimate, tape, source="closed-form")
    return _with_card(result, card, usage, limit_bytes)


def _replayed(tape: Tape, limit_bytes: int | None) -> Usage:
    """What the allocator reserves within the limit; where that is not enough, what it would reserve without one."""
    sizes = [block.n_bytes for block in tape.blocks]
    within = replay(tape.events, sizes, limit_bytes=limit_bytes)
    if within.fits:
        return within
    free = replay(tape.events, sizes)
    return Usage(
        allocated_bytes=free.allocated_bytes,
        reserved_bytes=free.reserved_bytes,
        fits=False,
        failed_event=within.failed_event,
    )


def _with_card(result: MemoryResult, card: Device, usage: Usage | None, limit_bytes: int | None) -> MemoryResult:
    needed_bytes = usage.reserved_bytes if usage is not None else result.peak_bytes
    allowed_bytes = limit_bytes or card.memory_bytes
    fits = None if allowed_bytes is None else (usage.fits if usage is not None else needed_bytes <= allowed_bytes)
    verdict: dict[str, Any] = {
        "name": card.label,
        "memory_bytes": card.memory_bytes,
        "limit_bytes": limit_bytes,
        "fits": fits,
        "margin_bytes": None if allowed_bytes is None else allowed_bytes - needed_bytes,
    }
    if allowed_bytes is None:
        verdict["reason"] = f"the memory of {card.label} is not known: give --limit"
    parts = result.parts | {"reserved": needed_bytes - result.peak_bytes}
    assumptions = [*result.assumptions, *([_CONTEXT] if usage is not None else [])]
    return MemoryResult(
        model=result.model,
        peak_bytes=needed_bytes,
        parts=parts,
        assumptions=assumptions,
        source=result.source,
        batch=result.batch,
        seq_len=result.seq_len,
        phase=result.phase,
        details=result.details | {"device": verdict},
    )


def memory_result(name: str, work: Workload, estimate: MemoryEstimate, tape: Tape, *, source: str) -> MemoryResult:
    """The result for a step whose allocations are on `tape`: the peak by part, what is largest then, the curve."""
    peak = estimate.peak
    return MemoryResult(
        model=name,
        peak_bytes=estimate.peak_bytes,
        parts=estimate.parts.to_dict(),
        assumptions=list(estimate.assumptions),
        source="trace" if source == "trace" else "closed-form",
        batch=work.batch,
        seq_len=work.seq_len,
        phase=work.phase,
        details={
            "dtype": work.dtype,
            "kv_cache_bytes": sum(block.n_bytes for block in tape.blocks if block.op == "kv_cache"),
            "at": {"op": peak.op, "module": peak.module, "phase": peak.phase},
            "largest": _largest(peak),
            "timeline": timeline(tape),
        },
    )


def _largest(peak: Peak) -> list[dict[str, Any]]:
    """The largest blocks alive at the peak: equal ones of one operator and part together."""
    merged: dict[tuple[str, str, str, int], dict[str, Any]] = {}
    for block in peak.largest:
        key = (block.part, block.op, block.module, block.n_bytes)
        row = merged.setdefault(
            key,
            {"part": block.part, "op": block.op, "module": block.module, "n_bytes": block.n_bytes, "count": 0},
        )
        row["count"] += 1
    return list(merged.values())


def timeline(tape: Tape) -> list[dict[str, Any]]:
    """At most 200 points of the curve of live bytes: the highest of each stretch, with the phase it falls into."""
    curve = list(tape.curve())
    width = max(1, -(-len(curve) // _N_POINTS))
    points = []
    for start in range(0, len(curve), width):
        at = max(range(start, min(start + width, len(curve))), key=curve.__getitem__)
        event = tape.events[at]
        block = tape.blocks[event if event >= 0 else ~event]
        points.append({"event": at, "alive_bytes": curve[at], "phase": block.phase if event >= 0 else ""})
    return points
