"""A benchmark's result: the time of a step set against the work in it and the peaks of the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from flopwatch.compare.decode import BandwidthCeiling, decode_figures, decode_warnings, experts_note
from flopwatch.compare.utilization import (
    Ceiling,
    rows_of_dtypes,
    run_dtypes,
    utilization_warnings,
    window_notes,
    work_by_dtype,
)
from flopwatch.cost.convention import Convention, count_flops
from flopwatch.measure.bench import BenchRequest, StepMeasurement
from flopwatch.measure.predicted import predicted_parts
from flopwatch.model.spec import ModelSpec
from flopwatch.record import BenchResult
from flopwatch.workload import Workload


class StepWork(msgspec.Struct, frozen=True, kw_only=True):
    """The work in one step: FLOPs by the dtype that they run in, the predicted peak, what its sequences are made of.

    `details` go into the result as they are, `notes` say what makes the figures less sure.
    """

    model_flops: dict[str, int]
    hardware_flops: dict[str, int]
    predicted_parts: dict[str, int] | None = None
    unit: Literal["tokens", "samples"] = "tokens"
    details: dict[str, Any] = {}
    notes: list[str] = []


def work_of(spec: ModelSpec, workload: Workload, convention: Convention, *, device: str = "cpu") -> StepWork:
    """The work of a step of the network from its closed forms, FLOPs under a convention."""
    step = count_flops(spec, workload, convention)
    model, hardware = work_by_dtype(step, run_dtypes(workload.dtype, convention))
    parts = predicted_parts(spec, workload, device=device)
    notes = window_notes(spec, workload.seq_len, convention)
    return StepWork(model_flops=model, hardware_flops=hardware, predicted_parts=parts, notes=notes)


def bench_result(
    request: BenchRequest,
    measured: StepMeasurement,
    *,
    work: StepWork,
    device_name: str,
    convention: Convention,
    ceilings: Sequence[Ceiling],
    bandwidths: Sequence[BandwidthCeiling] = (),
    cache_bytes: int = 0,
) -> BenchResult:
    """Tokens/s, model and hardware FLOP/s under `convention`, MFU and HFU against each ceiling, from the median step.

    `hardware_flops_per_s` counts what the step computed again; `details` keeps the interval of the median, the
    threads, and the notes on what makes the figures less sure. Decoding is set against `bandwidths` too.
    """
    spec, workload = request.spec, request.workload
    median_s = measured.timing.median_s
    rows = rows_of_dtypes(
        work.model_flops, work.hardware_flops, step_s=median_s, convention=convention.name, ceilings=ceilings
    )
    parts = work.predicted_parts
    decode, doubts = None, []
    if workload.phase == "decode" and isinstance(spec, ModelSpec):
        decode = decode_figures(spec, workload, step_s=median_s, ceilings=bandwidths)
        doubts = [*experts_note(spec, workload), *decode_warnings(decode, cache_bytes=cache_bytes)]
    details: dict[str, Any] = {
        "median_interval_s": [measured.timing.median_low_s, measured.timing.median_high_s],
        "n_outliers": measured.timing.n_outliers,
        "n_steps_per_sample": measured.n_steps_per_sample,
        "n_threads": measured.n_threads,
        "allocated_peak_bytes": measured.allocated_peak_bytes,
        "convention": convention.name,
        "compiled": request.compiled,
        "unit": work.unit,
        **({"optimizer": workload.optimizer_name} if workload.is_train else {}),
        **work.details,
        "notes": [*measured.notes, *work.notes, *utilization_warnings(rows), *doubts, *_compiled_notes(request, work)],
    }
    return BenchResult(
        model=spec.name,
        batch=workload.batch,
        seq_len=workload.seq_len,
        dtype=workload.dtype,
        phase=workload.phase,
        step_s=measured.timing.step_time(),
        tokens_per_s=workload.n_tokens / median_s,
        model_flops_per_s=sum(work.model_flops.values()) / median_s,
        hardware_flops_per_s=sum(work.hardware_flops.values()) / median_s,
        peak_memory_bytes=measured.tensor_peak_bytes,
        utilization=rows,
        n_warmup=measured.timing.n_warmup,
        device=device_name,
        details=details,
        decode=decode,
        predicted_peak_bytes=None if parts is None else sum(parts.values()),
        predicted_parts=parts,
    )


def _compiled_notes(request: BenchRequest, work: StepWork) -> list[str]:
    if not request.compiled or work.predicted_parts is None:
        return []
    return ["the predicted memory is that of the step without torch.compile"]
