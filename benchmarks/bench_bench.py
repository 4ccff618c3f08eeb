"""What `bench` says beside a hand-written, warmed-up loop on the same network, taken in turn; and how well it repeats.

Twice: as it is, and with the C library told to keep freed memory. A step on a CPU takes hundreds of megabytes of fresh
pages, and what a virtual machine needs to hand them out differs from minute to minute, for the loop as for `bench`.

And the batch that `--batch best` finds beside the best of a sweep over every batch, with the runs that each took.
"""

from __future__ import annotations

import os
import subprocess
import sys
from statistics import median

import flopwatch as fw
from flopwatch.api.bench_series import BenchSeries
from flopwatch.api.best_batch import best_batch
from flopwatch.cost.convention import DEFAULT, find_convention
from flopwatch.measure.bench import bench_step
from flopwatch.measure.series import ProbeSeries

N_TURNS = 5
N_AGAIN = 7
BATCH, SEQ_LEN, DTYPE = 2, 256, "bf16"
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
from statistics import median
import torch
from torch.nn import functional as F
from flopwatch.model.load import load_spec
from flopwatch.reference.model import build_model

batch, seq_len = {batch}, {seq_len}
model = build_model(load_spec("gpt-small"), dtype=torch.{torch_dtype})
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
ids = torch.randint(50257, (batch, seq_len))
targets = torch.randint(50257, (batch, seq_len))

def step():
    loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)

for _ in range({n_warmup}):
    step()
took = []
for _ in range({n_steps}):
    began = time.perf_counter()
    step()
    took.append(time.perf_counter() - began)
print(batch * seq_len / median(took))
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
    """Bench and the loop one after the other, five times, each in a process of its own."""
    series = ProbeSeries()
    benches = BenchSeries(
        series=series, machine=series.machine("cpu"), convention=find_convention(DEFAULT), timeout_s=600
    )
    work = fw.Workload(phase="train", batch=BATCH, seq_len=SEQ_LEN, dtype=DTYPE)
    spec = fw.load_spec("gpt-small")
    ours, loops = [], []
    for turn in range(N_TURNS):
        timing = bench_step(benches.request(spec, work, repeat=turn), series).timing
        ours.append(work.n_tokens / timing.median_s)
        loops.append(_loop_tokens_per_s(n_warmup=timing.n_warmup, n_steps=len(timing.samples_s)))
    ratios = [ours[turn] / loops[turn] for turn in range(N_TURNS)]
    print(f"gpt-small, training, batch {BATCH}, {SEQ_LEN} tokens, {DTYPE}, tokens/s:\n")
    print("| turn | `bench` | loop by hand | ratio |\n|--:|--:|--:|--:|")
    for turn in range(N_TURNS):
        print(f"| {turn + 1} | {ours[turn]:,.1f} | {loops[turn]:,.1f} | {ratios[turn]:.3f} |")
    print(f"| median | {median(ours):,.1f} | {median(loops):,.1f} | {median(ratios):.3f} |")
    print(f"| spread (max / min - 1) | {_spread(ours):.1%} | {_spread(loops):.1%} | {_spread(ratios):.1%} |")


def _loop_tokens_per_s(*, n_warmup: int, n_steps: int) -> float:
    code = BY_HAND.format(batch=BATCH, seq_len=SEQ_LEN, torch_dtype="bfloat16", n_warmup=n_warmup, n_steps=n_steps)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    return float(done.stdout)


def _spread(values: list[float]) -> float:
    return max(values) / min(values) - 1


def _against_a_sweep() -> None:
    """The best of a sweep is in part luck: it and what was found are timed again, in turn, and compared by that."""
    print(f"`--batch best` beside a sweep over batches 1 to {MOST_BATCH} (training, 64 tokens, fp32):\n")
    print(
        "| network | best of the sweep | found | in the sweep | timed again in turn | runs |\n|---|--:|--:|--:|--:|--:|"
    )
    for name, sizes in SMALL.items():
        spec = fw.ModelSpec(name=name, vocab_size=1009, max_seq_len=64, **sizes)
        series = ProbeSeries()
        machine = series.machine("cpu")
        benches = BenchSeries(series=series, machine=machine, convention=find_convention(DEFAULT), timeout_s=600)
        swept = {batch: _tokens_per_s(benches, spec, batch) for batch in range(1, MOST_BATCH + 1)}
        found = best_batch(spec, fw.Workload(phase="train", seq_len=64), benches, max_batch=MOST_BATCH)
        assert found.batch_search is not None
        best = max(swept, key=lambda batch: swept[batch])
        turns = range(3, N_AGAIN + 3)  # the search itself times a batch up to three times
        again = median(
            _tokens_per_s(benches, spec, found.batch, repeat=turn) / _tokens_per_s(benches, spec, best, repeat=turn)
            for turn in turns
        )
        cells = (name, best, found.batch, f"{swept[found.batch] / swept[best]:.1%}", f"{again:.1%}")
        print(f"| {' | '.join(map(str, cells))} | {found.batch_search.n_runs} of {MOST_BATCH} |")


def _tokens_per_s(benches: BenchSeries, spec: fw.ModelSpec, batch: int, *, repeat: int = 0) -> float:
    """The first time that a series is asked it measures; the search is answered from the sweep's own samples."""
    request = benches.request(spec, fw.Workload(phase="train", seq_len=64, batch=batch), repeat=repeat)
    return batch * 64 / bench_step(request, benches.series).timing.median_s


if __name__ == "__main__":
    main()
