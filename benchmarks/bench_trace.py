"""Counting: the trace of a gpt-xl training step against torch's own counter, its cost in depth, and the closed form
against the counters that people use, each as a whole process.

Times are CPU seconds. In one process: one model object, each way run `REPEATS` times in turn, the median and the
fastest are printed. Whole processes: start to end, imports included, with the peer's answer beside its time.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from flopwatch.cost.flops import forward_flops
from flopwatch.model.load import load_spec
from flopwatch.reference.model import Reference, build_model
from flopwatch.reference.step import make_step
from flopwatch.trace.api import trace
from flopwatch.workload import Workload

REPEATS = 5
STEP = Workload(batch=2, seq_len=1024, phase="train", optimizer="none", attention="math")
DEPTHS = (12, 48, 126)
PEER_SETUP = """
import warnings; warnings.simplefilter("ignore")
import torch
from flopwatch.model.load import load_spec
from flopwatch.reference.model import build_model
model = build_model(load_spec("gpt-xl"), ops="elementary", device="meta").eval()
ids = torch.zeros(2, 1024, dtype=torch.int64, device="meta")
"""
PEERS = {
    "thop": "import thop; print(2 * int(thop.profile(model, (ids,), verbose=False)[0]))",
    "calflops": (
        "from calflops import calculate_flops; print(int(calculate_flops(model, args=[ids], print_results=False, "
        "print_detailed=False, output_as_string=False)[0]))"
    ),
    "fvcore": (
        "import logging; logging.disable(logging.WARNING); from fvcore.nn import FlopCountAnalysis; "
        "print(2 * int(FlopCountAnalysis(model, ids).total()))"
    ),
}


def main() -> None:
    """Print the tables."""
    print("\n".join([*_against_torch(), "", *_in_depth(), "", *_processes()]))


def _against_torch() -> list[str]:
    model = build_model(load_spec("gpt-xl"), attention="math", device="meta")
    step = make_step(model, STEP)
    counted: dict[str, int] = {}

    def by_torch() -> None:
        with FlopCounterMode(display=False) as counter:
            step()
        counted["torch"] = counter.get_total_flops()

    def by_trace() -> None:
        traced = trace(step, model=model)
        counted["flopwatch"] = traced.total
        assert len(traced.modules) > 500
        assert traced.memory is not None

    ways = {"flopwatch trace": by_trace, "FlopCounterMode": by_torch, "the step alone, uncounted": step}
    times = _in_turn(ways)
    trace_s = statistics.median(times["flopwatch trace"])
    answers = {"flopwatch trace": f"{counted['flopwatch']:,}", "FlopCounterMode": f"{counted['torch']:,}"}
    gives = {
        "flopwatch trace": "modules, phases, bytes, dtypes, vector work, memory events",
        "FlopCounterMode": "modules, operators",
        "the step alone, uncounted": "",
    }
    lines = [
        "A training step of gpt-xl on `meta`, batch 2 x 1024 (one process, one model object, in turn):",
        "",
        "| | CPU s, median | fastest | ratio | FLOPs | gives |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for name, seconds in times.items():
        median = statistics.median(seconds)
        lines.append(
            f"| {name} | {median:.3f} | {min(seconds):.3f} | {median / trace_s:.1f} | {answers.get(name, '')} "
            f"| {gives[name]} |"
        )
    return lines


def _in_depth() -> list[str]:
    steps = {f"{depth} layers": _traced_step(depth) for depth in DEPTHS}
    times = _in_turn(steps)
    processes = {f"{depth} layers": _process_s([sys.executable, "-c", _trace_program(depth)])[0] for depth in DEPTHS}
    first = f"{DEPTHS[0]} layers"
    lines = [
        "The same trace in depth (width 1600, fused attention), in one process and as a whole process:",
        "",
        "| | CPU s, median | ratio | process CPU s | ratio |",
        "|---|--:|--:|--:|--:|",
    ]
    for name in steps:
        median, base = statistics.median(times[name]), statistics.median(times[first])
        lines.append(
            f"| {name} | {median:.3f} | {median / base:.1f} | {processes[name]:.2f} "
            f"| {processes[name] / processes[first]:.1f} |"
        )
    return lines


def _traced_step(depth: int) -> Callable[[], Any]:
    model = _deep_model(depth)
    step = make_step(model, Workload(batch=2, seq_len=1024, phase="train", optimizer="none", attention="flash"))
    return lambda: trace(step, model=model).modules


def _deep_model(depth: int) -> Reference:
    return build_model(load_spec("gpt-xl", {"n_layers": str(depth)}), attention="flash", device="meta")


def _trace_program(depth: int) -> str:
    return f"from benchmarks.bench_trace import _traced_step; _traced_step({depth})()"


def _processes() -> list[str]:
    spec = load_spec("gpt-xl")
    exact = forward_flops(spec, Workload(batch=2, seq_len=1024)).total
    lines = [
        "Whole processes, forward of gpt-xl, batch 2 x 1024 (MACs doubled where a library counts MACs):",
        "",
        "| | CPU s | wall s | FLOPs | of the exact count |",
        "|---|--:|--:|--:|--:|",
    ]
    count = [sys.executable, "-m", "flopwatch", "count"]
    cpu_s, wall_s, _ = _process_s([*count, "llama-3.1-405b", "--seq", "1k"])
    lines.append(f"| `flopwatch count llama-3.1-405b` | {cpu_s:.2f} | {wall_s:.2f} | | |")
    cpu_s, wall_s, _ = _process_s([*count, "gpt-xl", "--batch", "2", "--seq", "1k"])
    lines.append(f"| `flopwatch count gpt-xl` | {cpu_s:.2f} | {wall_s:.2f} | {exact:,} | 100.0 % |")
    for name, program in PEERS.items():
        cpu_s, wall_s, out = _process_s([sys.executable, "-c", PEER_SETUP + program])
        answer = int(out.split()[-1])
        lines.append(f"| {name} | {cpu_s:.2f} | {wall_s:.2f} | {answer:,} | {100 * answer / exact:.1f} % |")
    return lines


def _in_turn(ways: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """CPU seconds of each way, run one after the other in every round, the first round thrown away."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(REPEATS + 1):
        for name, way in ways.items():
            started = time.process_time()
            way()
            if turn:
                times[name].append(time.process_time() - started)
    return times


def _process_s(command: list[str]) -> tuple[float, float, str]:
    """CPU and wall seconds of a process from start to end, and what it printed."""
    before, started = _children_s(), time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return _children_s() - before, time.perf_counter() - started, done.stdout


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
