"""A small GPT learns a repeating sequence, and one line of `fw.Meter` says how fast.

    python examples/train_with_meter.py                      # one process, on what torch finds
    torchrun --nproc-per-node 2 examples/train_with_meter.py

On a CPU no peak is published, so the line says why MFU is n/a; `--peak-tflops` gives one, such as what
`flopwatch peak` measured.
"""

from __future__ import annotations

import argparse
import os

import torch
import torch.distributed as dist
from torch.nn import functional as F

import flopwatch as fw
from flopwatch.reference.model import build_model

SPEC = fw.ModelSpec(name="small-gpt", n_layers=4, d_model=128, n_heads=4, vocab_size=512, max_seq_len=128)
BATCH, SEQ_LEN, N_ACCUMULATE = 4, 128, 2


def main() -> None:
    """Train, evaluate twice on the way, and print the meter's line every tenth step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--peak-tflops", type=float)
    options = parser.parse_args()
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1:
        dist.init_process_group()
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    model = build_model(SPEC, device=str(device), dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    meter = fw.Meter(
        SPEC,
        seq_len=SEQ_LEN,
        dtype="fp32",
        peak_flops_per_s=options.peak_tflops * 1e12 if options.peak_tflops else None,
    )
    for step in range(1, options.steps + 1):
        for _ in range(N_ACCUMULATE):
            ids = batch(device)
            loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
            (loss / N_ACCUMULATE).backward()
            meter.add(sequences=BATCH)
        if world_size > 1:
            average_gradients(model, world_size)
        optimizer.step()
        optimizer.zero_grad()
        meter.step()
        if step % 10 == 0 and meter.ranks.rank == 0:
            print(f"loss {loss.item():.3f} | {meter.line()}")
        if step % (options.steps // 2) == 0:
            with meter.pause("eval"), torch.no_grad():
                model(batch(device)[:, :-1])
    summary = meter.summary()  # asks all ranks, so all ranks call it
    if meter.ranks.rank == 0:
        print({name: round(value, 4) for name, value in summary.items()})
    if world_size > 1:
        dist.destroy_process_group()


def batch(device: torch.device) -> torch.Tensor:
    """Sequences that count upwards from a random start."""
    starts = torch.randint(SPEC.vocab_size, (BATCH, 1))
    return ((starts + torch.arange(SEQ_LEN + 1)) % SPEC.vocab_size).to(device)


def average_gradients(model: torch.nn.Module, world_size: int) -> None:
    """Data parallel in four lines; DistributedDataParallel overlaps this with the backward pass."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= world_size


if __name__ == "__main__":
    main()
