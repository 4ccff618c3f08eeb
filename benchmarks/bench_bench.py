"""What `bench` says beside a hand-written, warmed-up loop on the same network, taken in turn; and how well it repeats.

Both are alive at once, and before each step that `bench` times the loop takes one of its own: a shared machine differs
from one minute to the next by more than what is looked for. Twice: as it is, and with the C library told to keep freed
memory. A step on a CPU takes hundreds of megabytes of fresh pages, and what a virtual machine needs to hand them out
differs from minute to minute, for the loop as for `bench`.

And the batch that `--batch best` finds beside the best of a sweep over every batch, with the runs that each took. The
sweep takes minutes, in which a shared machine changes; so its fastest and what was found are timed again by loops
written by hand, each in a process of its own, that take turns of a fifth of a second; and the fastest of these and what
was found once more, in three pairs of new processes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import msgspec

import flopwatch as fw
from benchmarks.turn_taking import ASK, GRANT
from flopwatch.api.bench_series import BenchSeries
from flopwatch.api.best_batch import best_batch
from flopwatch.cost.convention import DEFAULT, find_convention
from flopwatch.measure.bench import bench_step
from flopwatch.measure.dtype import default_dtype
from flopwatch.measure.series import ProbeSeries
from flopwatch.probe.protocol import ProbeOutcome, ProbeRequest
from flopwatch.probe.runner import OnProgress, run_probe

N_TURNS = 5
N_FASTEST = 4
N_ROUNDS = 150
N_PAIRS = 3
BATCH, SEQ_LEN = 2, 256
MOST_BATCH = 24
KEEPS_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(64 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}
SMALL = {
    "2 layers x 64": {"n_layers": 2, "d_model": 64, "n_heads": 2},
    "3 layers x 128": {"n_layers": 3, "d_model": 128, "n_heads": 4},
    "4 layers x 192": {"n_layers": 4, "d_model": 192, "n_heads": 6},
}

BY_HAND = """
import time
import torch
from torch.nn import functional as F
from flopwatch.model.spec import ModelSpec
from flopwatch.reference.model import build_model

batch, seq_len = {batch}, {seq_len}
spec = ModelSpec(**{spec})
model = build_model(spec, dtype=torch.{torch_dtype})
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
ids = torch.randint(spec.vocab_size, (batch, seq_len))
targets = torch.randint(spec.vocab_size, (batch, seq_len))

def step():
    loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)

for _ in range({n_warmup}):
    step()
"""
THEN_STEP = """
while input():
    began = time.perf_counter()
    step()
    print(batch * seq_len / (time.perf_counter() - began), flush=True)
"""
THEN_TAKE_TURNS = """
while input():
    step()
    began, n = time.perf_counter(), 0
    while time.perf_counter() - began < 0.2:
        step()
        n += 1
    print(batch * seq_len * n / (time.perf_counter() - began), flush=True)
"""


def main() -> None:
    """Print three tables."""
    against_a_loop()
    print("\nThe same, with the C library told to keep freed memory:\n", flush=True)
    code = "from benchmarks.bench_bench import against_a_loop; against_a_loop()"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **KEEPS_MEMORY})
    print()
    _against_a_sweep()


def against_a_loop() -> None:
    """Bench and the loop step by step in turn, five times, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for name in (ASK, GRANT):
            os.environ[name] = str(Path(folder, name))  # a probe has it from here
            os.mkfifo(os.environ[name])
        series = ProbeSeries(run=_run_in_turn)
        benches = BenchSeries(
            series=series, machine=series.machine("cpu"), convention=find_convention(DEFAULT), timeout_s=600
        )
        dtype = default_dtype(benches.machine)
        work = fw.Workload(phase="train", batch=BATCH, seq_len=SEQ_LEN, dtype=dtype)
        turns = [_turn_with_a_loop(benches, work, turn) for turn in range(N_TURNS)]
    ours, loops = ([turn[side] for turn in turns] for side in (0, 1))
    ratios = [our / loop for our, loop in turns]
    print(f"gpt-small, training, batch {BATCH}, {SEQ_LEN} tokens, {dtype}, tokens/s:\n")
    print("| turn | `bench` | loop by hand | ratio |\n|--:|--:|--:|--:|")
    for turn in range(N_TURNS):
        print(f"| {turn + 1} | {ours[turn]:,.1f} | {loops[turn]:,.1f} | {ratios[turn]:.3f} |")
    print(f"| median | {median(ours):,.1f} | {median(loops):,.1f} | {median(ratios):.3f} |")
    print(f"| spread (max / min - 1) | {_spread(ours):.1%} | {_spread(loops):.1%} | {_spread(ratios):.1%} |")


def _run_in_turn(request: ProbeRequest, *, on_progress: OnProgress | None = None) -> ProbeOutcome:
    """The probe, taking turns when it times a step."""
    if request.job == "bench_step":
        more = {"import_from": [str(Path(__file__).parents[1])], "imports": ["benchmarks.turn_taking"]}
        request = msgspec.structs.replace(request, **more)
    return run_probe(request, on_progress=on_progress)


def _turn_with_a_loop(benches: BenchSeries, work: fw.Workload, turn: int) -> tuple[float, float]:
    """Tokens/s as bench says it, and the median of as many steps of the loop, each run before one of bench's."""
    spec = fw.load_spec("gpt-small")
    with _started(_loop(BY_HAND + THEN_STEP, spec, work, n_warmup=2)) as loop:
        rates: list[float] = []
        answering = threading.Thread(target=_take_turns, args=(loop, rates), daemon=True)
        answering.start()
        timing = bench_step(benches.request(spec, work, repeat=turn), benches.series).timing
        answering.join()
    return work.n_tokens / timing.median_s, median(rates[-len(timing.samples_s) :])


def _take_turns(loop: subprocess.Popen[str], rates: list[float]) -> None:
    """Run a step of the loop before each of bench's, until bench has ended."""
    with Path(os.environ[ASK]).open() as asked, Path(os.environ[GRANT]).open("w") as granted:
        for _ in asked:
            rates.append(_turn(loop))
            granted.write("go\n")
            granted.flush()


@contextlib.contextmanager
def _started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A loop that waits for its turns; it ends with the block."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as loop:
        try:
            yield loop
        finally:
            loop.kill()


def _loop(code: str, spec: fw.ModelSpec, work: fw.Workload, *, n_warmup: int) -> list[str]:
    """The command that runs a loop by hand."""
    torch_dtype = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[work.dtype]
    sizes = {"batch": work.batch, "seq_len": work.seq_len, "torch_dtype": torch_dtype, "n_warmup": n_warmup}
    return [sys.executable, "-c", code.format(spec=spec.to_dict(), **sizes)]


def _spread(values: list[float]) -> float:
    return max(values) / min(values) - 1


def _against_a_sweep() -> None:
    print(f"`--batch best` beside a sweep over batches 1 to {MOST_BATCH} (training, 64 tokens, fp32):\n")
    print("| network | best of the sweep | found | in the sweep | best in turn | found in turn | runs |")
    print("|---|--:|--:|--:|--:|--:|--:|", flush=True)
    for name, sizes in SMALL.items():
        spec = fw.ModelSpec(name=name, vocab_size=1009, max_seq_len=64, **sizes)
        series = ProbeSeries()
        machine = series.machine("cpu")
        benches = BenchSeries(series=series, machine=machine, convention=find_convention(DEFAULT), timeout_s=600)
        swept = {batch: _tokens_per_s(benches, spec, batch) for batch in range(1, MOST_BATCH + 1)}
        found = best_batch(spec, fw.Workload(phase="train", seq_len=64), benches, max_batch=MOST_BATCH)
        assert found.batch_search is not None
        fastest = sorted(swept, key=lambda batch: -swept[batch])[:N_FASTEST]
        again = _in_turn(spec, sorted({*fastest, found.batch}))
        best = max(again, key=lambda batch: again[batch])
        cells = [name, fastest[0], found.batch, f"{swept[found.batch] / swept[fastest[0]]:.1%}", best]
        cells += [f"{_over(spec, found.batch, best):.1%}", f"{found.batch_search.n_runs} of {MOST_BATCH}"]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def _over(spec: fw.ModelSpec, batch: int, best: int) -> float:
    """Tokens/s of a batch over the best's, in pairs of new processes: the fastest of several owes a part to luck."""
    if batch == best:
        return 1.0
    pairs = [_in_turn(spec, [batch, best]) for _ in range(N_PAIRS)]
    return median(pair[batch] / pair[best] for pair in pairs)


def _tokens_per_s(benches: BenchSeries, spec: fw.ModelSpec, batch: int) -> float:
    """The first time that a series is asked it measures; the search is answered from the sweep's own samples."""
    request = benches.request(spec, fw.Workload(phase="train", seq_len=64, batch=batch))
    return batch * 64 / bench_step(request, benches.series).timing.median_s


def _in_turn(spec: fw.ModelSpec, batches: list[int]) -> dict[int, float]:
    """Tokens/s of each batch over that of the fastest, by loops written by hand that take turns: medians of rounds."""
    works = [fw.Workload(phase="train", seq_len=64, batch=batch) for batch in batches]
    with contextlib.ExitStack() as running:
        commands = [_loop(BY_HAND + THEN_TAKE_TURNS, spec, work, n_warmup=10) for work in works]
        loops = [running.enter_context(_started(command)) for command in commands]
        rounds = [[_turn(loop) for loop in loops] for _ in range(N_ROUNDS)][1:]
    against_first = [median(row[place] / row[0] for row in rounds) for place in range(len(batches))]
    return {batch: rate / max(against_first) for batch, rate in zip(batches, against_first, strict=True)}


def _turn(loop: subprocess.Popen[str]) -> float:
    assert loop.stdin is not None
    assert loop.stdout is not None
    loop.stdin.write("go\n")
    loop.stdin.flush()
    return float(loop.stdout.readline())


if __name__ == "__main__":
    main()
