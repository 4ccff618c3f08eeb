"""A benchmark's result: the time of a step set against the work in it and the peaks of the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flopwatch.compare.decode import BandwidthCeiling, decode_figures, decode_warnings
from flopwatch.compare.utilization import Ceiling, run_dtypes, utilization_rows, utilization_warnings
from flopwatch.cost.convention import Convention, count_flops
from flopwatch.measure.bench import BenchRequest, StepMeasurement
from flopwatch.record import BenchResult


def bench_result(
    request: BenchRequest,
    measured: StepMeasurement,
    *,
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
    step = count_flops(spec, workload, convention)
    median_s = measured.timing.median_s
    rows = utilization_rows(
        step,
        step_s=median_s,
        dtypes=run_dtypes(workload.dtype, convention),
        convention=convention.name,
        ceilings=ceilings,
    )
    decode = None
    if workload.phase == "decode":
        decode = decode_figures(spec, workload, step_s=median_s, ceilings=bandwidths)
    doubts = [] if decode is None else decode_warnings(decode, cache_bytes=cache_bytes)
    details: dict[str, Any] = {
        "median_interval_s": [measured.timing.median_low_s, measured.timing.median_high_s],
        "n_outliers": measured.timing.n_outliers,
        "n_steps_per_sample": measured.n_steps_per_sample,
        "n_threads": measured.n_threads,
        "allocated_peak_bytes": measured.allocated_peak_bytes,
        "convention": convention.name,
        "compiled": request.compiled,
        "notes": [*measured.notes, *utilization_warnings(rows), *doubts],
    }
    return BenchResult(
        model=spec.name,
        batch=workload.batch,
        seq_len=workload.seq_len,
        dtype=workload.dtype,
        phase=workload.phase,
        step_s=measured.timing.step_time(),
        tokens_per_s=workload.n_tokens / median_s,
        model_flops_per_s=step.model_flops / median_s,
        hardware_flops_per_s=step.hardware_flops / median_s,
        peak_memory_bytes=measured.tensor_peak_bytes,
        utilization=rows,
        n_warmup=measured.timing.n_warmup,
        device=device_name,
        details=details,
        decode=decode,
    )
