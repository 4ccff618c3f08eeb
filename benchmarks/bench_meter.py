"""What fw.Meter costs a step, beside its goal of 20 microseconds and beside a loop that only reads the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import flopwatch as fw

GOAL_US = 20
N_STEPS = 5_000
N_REPEATS = 9


def main() -> None:
    """Print one table: microseconds of the host a step, median of the repeats."""
    lengths = [17 + 13 * i for i in range(64)]
    rows = [
        ("`step(tokens=)`", _us_a_step(lambda meter: meter.step(tokens=8192))),
        ("`add` x 4, `step()`", _us_a_step(_accumulated)),
        ("`step(lengths=)`, 64 sequences", _us_a_step(lambda meter: meter.step(lengths=lengths))),
        ("`step(tokens=)` with a `pause` each", _us_a_step(_paused)),
        ("`step(tokens=)` and `line()`", _us_a_step(_with_line)),
        ("two reads of the clock and a division", _us_a_plain_step()),
    ]
    print("| a step | us | goal, us |\n|---|--:|--:|")
    for name, us in rows:
        goal = f"{GOAL_US}" if name.startswith("`") else ""
        print(f"| {name} | {us:.2f} | {goal} |")


def _accumulated(meter: fw.Meter) -> None:
    for _ in range(4):
        meter.add(tokens=2048)
    meter.step()


def _paused(meter: fw.Meter) -> None:
    with meter.pause("eval"):
        meter.metrics()
    meter.step(tokens=8192)


def _with_line(meter: fw.Meter) -> None:
    meter.step(tokens=8192)
    meter.line()


def _us_a_step(step: Callable[[fw.Meter], object]) -> float:
    """Microseconds that the meter's calls take a step; the peak is far away, so that nothing is warned about."""
    meter = fw.Meter("gpt-small", seq_len=1024, peak_flops_per_s=1e30, warmup_steps=0)
    return _median_us(lambda: step(meter))


def _us_a_plain_step() -> float:
    """The least that any measurement costs: read the clock at both ends, divide."""

    def step() -> float:
        began = time.perf_counter()
        return 8192 / max(time.perf_counter() - began, 1e-9)

    return _median_us(step)


def _median_us(step: Callable[[], object]) -> float:
    return median(_mean_us(step) for _ in range(N_REPEATS))


def _mean_us(step: Callable[[], object]) -> float:
    began = time.perf_counter()
    for _ in range(N_STEPS):
        step()
    return (time.perf_counter() - began) / N_STEPS * 1e6


if __name__ == "__main__":
    main()
