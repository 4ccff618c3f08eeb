"""Jobs that say where the time of a step goes: its operators under the profiler, and its matmuls alone."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from statistics import median
from typing import Any, Final

import torch

from flopwatch.probe.jobs_step import build
from flopwatch.reference.model import DTYPES

_N_WARMUP: Final = 3
_N_PROFILED: Final = 5
_N_REPEATS: Final = 5
_LEAST_S: Final = 0.002


def profile_step(arguments: dict[str, Any]) -> dict[str, Any]:
    """`{wall_s, operators}` of the median of five profiled steps on a CPU.

    `operators` has `{name, in_optimizer, calls, self_s}` for each name: seconds in the operator itself, without those
    that it calls. What `wall_s` has on top is Python between operators, and what the profiler adds to it.
    """
    from torch.profiler import ProfilerActivity, profile

    step, _ = build({**arguments, "device": "cpu"})
    for _ in range(_N_WARMUP):
        step()
    seen: list[tuple[float, list[dict[str, Any]]]] = []
    for _ in range(_N_PROFILED):
        gc.collect()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            began_s = time.perf_counter()
            step()
            wall_s = time.perf_counter() - began_s
        seen.append((wall_s, _by_name(profiler.events())))
    wall_s, operators = sorted(seen, key=lambda one: one[0])[_N_PROFILED // 2]
    return {"wall_s": wall_s, "operators": operators}


def _by_name(events: Any) -> list[dict[str, Any]]:
    rows: dict[tuple[str, bool], dict[str, Any]] = {}
    for event in events:
        key = (event.name, _in_optimizer(event))
        row = rows.setdefault(key, {"name": key[0], "in_optimizer": key[1], "calls": 0, "self_s": 0.0})
        row["calls"] += 1
        row["self_s"] += event.self_cpu_time_total / 1e6  # microseconds
    return list(rows.values())


def _in_optimizer(event: Any) -> bool:
    while event is not None:
        if event.name.startswith("Optimizer."):
            return True
        event = event.cpu_parent
    return False


def time_matmuls(arguments: dict[str, Any]) -> dict[str, Any]:
    """`{total_s, rows}`: each of `matmuls` (`{kind, rows, d_in, d_out, calls}`) by itself, `calls` times its median.

    `forward` is [R, I] x [O, I]^T as in a linear layer, `input` the gradient of its input, `weight` of its weights.
    """
    dtype = DTYPES[arguments["dtype"]]
    rows = []
    for asked in arguments["matmuls"]:
        run = _matmul(asked, dtype)
        rows.append({**asked, "each_s": _median_s(run)})
    return {"total_s": sum(row["each_s"] * row["calls"] for row in rows), "rows": rows}


def _matmul(asked: dict[str, Any], dtype: torch.dtype) -> Callable[[], object]:
    n_rows, d_in, d_out = asked["rows"], asked["d_in"], asked["d_out"]
    x, weight = torch.randn(n_rows, d_in).to(dtype), torch.randn(d_out, d_in).to(dtype)
    gradient = torch.randn(n_rows, d_out).to(dtype)
    if asked["kind"] == "forward":
        return lambda: torch.mm(x, weight.t())
    if asked["kind"] == "input":
        return lambda: torch.mm(gradient, weight)
    return lambda: torch.mm(gradient.t(), x)


def _median_s(run: Callable[[], object]) -> float:
    run()
    began_s = time.perf_counter()
    run()
    n_calls = max(1, round(_LEAST_S / max(time.perf_counter() - began_s, 1e-7)))
    took = []
    for _ in range(_N_REPEATS):
        began_s = time.perf_counter()
        for _ in range(n_calls):
            run()
        took.append((time.perf_counter() - began_s) / n_calls)
    return median(took)
