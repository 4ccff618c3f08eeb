"""Roofline predictions beside measured step times: forward and train, two sizes, two sequence lengths, on this CPU.

And where each is off: the step's time above its roofline by part, as `bench --why` splits it.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from flopwatch.api.roofline import measured_roof
from flopwatch.compare.gap import GapProbes, split_gap
from flopwatch.compare.roofline import Roof, roofline
from flopwatch.device.detect import detect
from flopwatch.device.machine import Machine
from flopwatch.measure.bench import BenchRequest, bench_step
from flopwatch.measure.gap import empty_step_s, profile_step
from flopwatch.measure.limit import free_limit
from flopwatch.measure.peak import FULL_S, keep_peak, measure_bandwidth, measure_peak
from flopwatch.measure.series import ProbeSeries
from flopwatch.model.load import load_spec
from flopwatch.model.spec import ModelSpec
from flopwatch.record import GapSplit, RooflineResult
from flopwatch.store import Store
from flopwatch.units import format_percent, format_seconds
from flopwatch.workload import Phase, Workload

_SMALLER = ModelSpec(name="gpt-mini", n_layers=6, d_model=384, n_heads=6, vocab_size=8192, max_seq_len=1024)
_SIZES = ((_SMALLER, 4), (load_spec("gpt-small"), 1))
_PHASES: tuple[Phase, ...] = ("forward", "train")
_SEQ_LENS = (256, 1024)
_PARTS = ("matmul", "attention", "memory", "optimizer", "overhead", "unexplained")


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
    splits = [
        _row(spec, Workload(batch=batch, seq_len=seq_len, phase=phase, dtype="fp32"), roof, machine, series)
        for spec, batch in _SIZES
        for phase in _PHASES
        for seq_len in _SEQ_LENS
    ]
    ratios = [split.step_s / split.roofline_s for _, split in splits]
    print(f"\nMeasured / roofline: {min(ratios):.2f} to {max(ratios):.2f}.\n")
    _print_reasons(splits)


def _row(
    spec: ModelSpec, workload: Workload, roof: Roof, machine: Machine, series: ProbeSeries
) -> tuple[RooflineResult, GapSplit]:
    """Print one workload; what was predicted of it, and where its time went."""
    predicted = roofline(spec, workload, roof)
    request = BenchRequest(spec=spec, workload=workload, limit=free_limit(series, machine))
    timing = bench_step(request, series).timing
    step_s = timing.median_s
    cells = (
        spec.name,
        workload.phase,
        f"{workload.batch} x {workload.seq_len}",
        format_seconds(predicted.time_s),
        f"{format_seconds(step_s)} ({format_seconds(timing.p10_s)} to {format_seconds(timing.p90_s)})",
        f"{step_s / predicted.time_s:.2f}",
        format_percent(predicted.highest_mfu),
        format_percent(predicted.model_flops / step_s / predicted.peak_flops_per_s),
    )
    print(f"| {' | '.join(cells)} |", flush=True)
    profiled = profile_step(request, series)
    probes = GapProbes(
        profiled_s=profiled["wall_s"],
        operators=profiled["operators"],
        matmuls_alone_s=None,
        empty_step_s=empty_step_s(request, series),
    )
    return predicted, split_gap(step_s, predicted, probes)


def _print_reasons(splits: list[tuple[RooflineResult, GapSplit]]) -> None:
    """Time above the roofline by part, and in a line which parts it is in, over all of the workloads."""
    print(f"Above the roofline, ms, by part:\n\n| model | phase | batch x seq | in all | {' | '.join(_PARTS)} |")
    print("|---|---|--:|--:|" + "--:|" * len(_PARTS))
    total_s = dict.fromkeys(_PARTS, 0.0)
    for predicted, split in splits:
        above_s = dict.fromkeys(_PARTS, 0.0) | {part.name: part.measured_s - part.roofline_s for part in split.parts}
        sizes = f"{predicted.batch} x {predicted.seq_len}"
        cells = [predicted.model, predicted.phase, sizes, f"{1e3 * (split.step_s - split.roofline_s):,.0f}"]
        print(f"| {' | '.join([*cells, *(f'{1e3 * above_s[name]:,.0f}' for name in _PARTS)])} |")
        total_s = {name: total_s[name] + above_s[name] for name in _PARTS}
    all_s = math.fsum(total_s.values())
    shares = ", ".join(f"{name} {total_s[name] / all_s:.0%}" for name in sorted(_PARTS, key=lambda n: -total_s[n]))
    matmuls = [part for _, split in splits for part in split.parts if part.name == "matmul"]
    reached = math.fsum(part.roofline_s for part in matmuls) / math.fsum(part.measured_s for part in matmuls)
    print(f"\nWhere it is off: of all the time above the rooflines {shares}.", end=" ")
    print(
        f"The step's matmuls reach {reached:.0%} of the rate of the best shape, which is what the roofline gives",
        end=" ",
    )
    print(
        "them; operators that move data also take fresh memory from the system, which the roofline leaves out.", end=" "
    )
    print(
        "MFU at most is above 100 % where attention weighs: the convention counts all of the square, the causal",
        end=" ",
    )
    print("kernel computes about half of it.", end=" ")
    print(
        "Unexplained below zero: the parts come from a profiled run, whose steps were slower than the timed ones."
        if total_s["unexplained"] < 0
        else ""
    )


if __name__ == "__main__":
    main()
