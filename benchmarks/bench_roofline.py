"""Roofline predictions beside measured step times: forward and train, two sizes, two sequence lengths, on this CPU."""

from __future__ import annotations

import tempfile
from pathlib import Path

from flopwatch.api.roofline import measured_roof
from flopwatch.compare.roofline import Roof, roofline
from flopwatch.device.detect import detect
from flopwatch.device.machine import Machine
from flopwatch.measure.bench import BenchRequest, bench_step
from flopwatch.measure.limit import free_limit
from flopwatch.measure.peak import FULL_S, keep_peak, measure_bandwidth, measure_peak
from flopwatch.measure.series import ProbeSeries
from flopwatch.model.load import load_spec
from flopwatch.model.spec import ModelSpec
from flopwatch.store import Store
from flopwatch.units import format_percent, format_seconds
from flopwatch.workload import Phase, Workload

_SMALLER = ModelSpec(name="gpt-mini", n_layers=6, d_model=384, n_heads=6, vocab_size=8192, max_seq_len=1024)
_SIZES = ((_SMALLER, 4), (load_spec("gpt-small"), 1))
_PHASES: tuple[Phase, ...] = ("forward", "train")
_SEQ_LENS = (256, 1024)


def main() -> None:
    """Print the table."""
    machine = detect("cpu")
    series = ProbeSeries()
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "bench.sqlite") as store:
        result = measure_peak("fp32", machine, budget_s=FULL_S, bandwidth=measure_bandwidth(machine))
        keep_peak(store, machine, result)
        roof = measured_roof(machine, "fp32", store)
    print(f"Measured peak {roof.flops_per_s['fp32'] / 1e9:.1f} GFLOP/s (fp32),", end=" ")
    print(f"bandwidth {roof.bandwidth_bytes_per_s / 1e9:.1f} GB/s, cache {roof.cache_bytes >> 20} MiB.", end=" ")
    print("The machine was quiet.\n" if result.details["is_steady"] else f"{'; '.join(result.details['notes'])}.\n")
    print("| model | phase | batch x seq | roofline | measured | measured / roofline | MFU at most | MFU |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    ratios = [
        _row(spec, Workload(batch=batch, seq_len=seq_len, phase=phase, dtype="fp32"), roof, machine, series)
        for spec, batch in _SIZES
        for phase in _PHASES
        for seq_len in _SEQ_LENS
    ]
    print(f"\nMeasured / roofline: {min(ratios):.2f} to {max(ratios):.2f}.")


def _row(spec: ModelSpec, workload: Workload, roof: Roof, machine: Machine, series: ProbeSeries) -> float:
    """Print one workload; the ratio of measured time to the roofline's."""
    predicted = roofline(spec, workload, roof)
    measured = bench_step(BenchRequest(spec=spec, workload=workload, limit=free_limit(series, machine)), series)
    timing = measured.timing
    step_s = timing.median_s
    ratio = step_s / predicted.time_s
    cells = (
        spec.name,
        workload.phase,
        f"{workload.batch} x {workload.seq_len}",
        format_seconds(predicted.time_s),
        f"{format_seconds(step_s)} ({format_seconds(timing.p10_s)} to {format_seconds(timing.p90_s)})",
        f"{ratio:.2f}",
        format_percent(predicted.highest_mfu),
        format_percent(predicted.model_flops / step_s / predicted.peak_flops_per_s),
    )
    print(f"| {' | '.join(cells)} |", flush=True)
    return ratio


if __name__ == "__main__":
    main()
