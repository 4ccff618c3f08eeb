"""`flopwatch peak` against a plain sweep of 200 shapes with torch.mm, its own repeatability, and one core less."""

from __future__ import annotations

import itertools
import os
import statistics
from typing import Any

from flopwatch.device.detect import detect
from flopwatch.measure.peak import EACH_S, FULL_S, measure_bandwidth, measure_peak
from flopwatch.probe.protocol import ProbeRequest
from flopwatch.probe.runner import ProbeRunner
from flopwatch.record import PeakResult

_SIDES = (512, 1024, 1536, 2048, 3072)
_SHAPES = [list(shape) for shape in itertools.product((256, 384, 512, 768, 1024, 1536, 2048, 3072), _SIDES, _SIDES)]
_N_RUNS = 5


def main() -> None:
    """Print the tables."""
    machine = detect("cpu")
    with ProbeRunner() as runner:
        first = measure_peak("fp32", machine, budget_s=FULL_S, run=runner.run)
        sweep = _sweep(runner)
        runs = [measure_peak("fp32", machine, budget_s=EACH_S, run=runner.run) for _ in range(_N_RUNS)]
        bandwidths = [measure_bandwidth(machine, run=runner.run)["bytes_per_s"] for _ in range(_N_RUNS)]
        others = [_other(dtype, runner) for dtype in ("bf16", "int8")]
    ratio = first.flops_per_s / sweep["flops_per_s"]
    print("| fp32, all cores | GFLOP/s | shape |\n|---|--:|---|")
    print(f"| flopwatch peak | {first.flops_per_s / 1e9:.1f} | {_shape(first.shape)} |")
    print(f"| best of {len(_SHAPES)} shapes, torch.mm | {sweep['flops_per_s'] / 1e9:.1f} | {_shape(sweep['shape'])} |")
    print(f"\nRatio {ratio:.3f} (at least 0.98 is wanted). {_quiet(first)}\n")
    rates = [run.flops_per_s for run in runs]
    print(f"Five runs: {', '.join(f'{rate / 1e9:.1f}' for rate in rates)} GFLOP/s,", end=" ")
    print(f"highest / lowest {max(rates) / min(rates):.3f} (at most 1.03 is wanted on a quiet machine).", end=" ")
    print(" ".join(dict.fromkeys(_quiet(run) for run in runs)))
    print(f"\nBandwidth, five runs: {', '.join(f'{rate / 1e9:.1f}' for rate in bandwidths)} GB/s.\n")
    for line in others:
        print(line)
    _with_one_core(statistics.median(rates))


def _sweep(runner: ProbeRunner) -> dict[str, Any]:
    arguments = {"device": "cpu", "dtype": "fp32", "shapes": _SHAPES, "n_samples": 3}
    outcome = runner.run(ProbeRequest(job="matmul_sweep", arguments=arguments))
    assert outcome.result is not None, outcome
    return outcome.result


def _other(dtype: str, runner: ProbeRunner) -> str:
    found = measure_peak(dtype, detect("cpu"), budget_s=EACH_S, run=runner.run)
    return f"{dtype}: {found.flops_per_s / 1e9:.1f} GFLOP/s at {_shape(found.shape)}. {_quiet(found)}\n"


def _with_one_core(all_cores_flops_per_s: float) -> None:
    """The same on one core: what affinity takes away must be missing."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        with ProbeRunner() as runner:
            found = measure_peak("fp32", detect("cpu"), budget_s=EACH_S, run=runner.run)
    finally:
        os.sched_setaffinity(0, cores)
    share = found.flops_per_s / all_cores_flops_per_s
    print(
        f"On 1 of {len(cores)} cores: {found.flops_per_s / 1e9:.1f} GFLOP/s, {share:.2f} of all cores. {_quiet(found)}"
    )


def _shape(shape: list[int]) -> str:
    return " x ".join(str(size) for size in shape)


def _quiet(found: PeakResult) -> str:
    if found.details["is_steady"]:
        return "The machine was quiet."
    return f"The machine was not quiet: {'; '.join(found.details['notes'])}."


if __name__ == "__main__":
    main()
