"""Predicted peak memory against real steps and tracked ones, the tracker beside torch's, and the notebook's batches."""

from __future__ import annotations

import gc
import statistics
import time
from typing import Any, Final

import msgspec
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools import MemTracker

from flopwatch.cost.memory import estimate_memory, step_tape
from flopwatch.device.allocator import CachingAllocator, OutOfDeviceMemoryError
from flopwatch.model.load import load_spec
from flopwatch.model.spec import ModelSpec, spec_from_fields
from flopwatch.probe.tensor_peak import tensor_peak
from flopwatch.reference.model import DTYPES, build_model
from flopwatch.reference.step import build_step, make_step
from flopwatch.tally import Tally
from flopwatch.trace.memory_view import fill, memory_tape, trace_step
from flopwatch.trace.replay import AnyBatch, predict_batch
from flopwatch.workload import Workload

MIB: Final = 1 << 20
GPTS: Final = ("gpt-small", "gpt-medium", "gpt-large", "gpt-xl")
LIMIT_BYTES: Final = 39800 * MIB
NETWORKS: Final[dict[str, dict[str, Any]]] = {
    "GPT, small vocabulary": {
        "n_layers": 6, "d_model": 384, "n_heads": 6, "vocab_size": 2003, "max_seq_len": 251,
    },
    "Llama, large vocabulary": {
        "n_layers": 2, "d_model": 160, "n_heads": 8, "n_kv_heads": 2, "vocab_size": 6007, "max_seq_len": 509,
        "positions": "rope", "ffn": "swiglu", "norm": "rmsnorm", "bias": False, "d_ff": 448,
    },
    "wide, tied": {
        "n_layers": 6, "d_model": 448, "n_heads": 7, "vocab_size": 2003, "max_seq_len": 127, "tied_head": True,
    },
}  # fmt: skip
STEPS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("forward", {"phase": "forward", "batch": 5}),
    ("forward, elementary", {"phase": "forward", "batch": 3, "ops": "elementary"}),
    ("forward, math attention, bf16", {"phase": "forward", "batch": 2, "attention": "math", "dtype": "bf16"}),
    ("train", {"phase": "train", "batch": 5}),
    ("train, bf16", {"phase": "train", "batch": 3, "dtype": "bf16"}),
    ("train, autocast", {"phase": "train", "batch": 2, "dtype": "bf16", "precision": "autocast"}),
    ("train, checkpointed", {"phase": "train", "batch": 7, "recompute": "full"}),
    ("train, checkpointed, bf16", {"phase": "train", "batch": 3, "recompute": "full", "dtype": "bf16"}),
    ("train, math attention, SGD", {"phase": "train", "batch": 2, "attention": "math", "optimizer": "sgd"}),
    ("train, elementary, sum, no optimizer",
     {"phase": "train", "batch": 2, "ops": "elementary", "loss": "sum", "optimizer": "none"}),
    ("train, three micro-batches", {"phase": "train", "batch": 2, "n_accumulate": 3}),
    ("decode", {"phase": "decode", "batch": 9}),
)  # fmt: skip
# Tracked steps, batch 4 x 1024, two AdamW steps, by a tracker that is not ours (torch 2.13).
ANCHORS_MIB: Final = {
    ("gpt-small", "fp32", "none"): 6552.71,
    ("gpt-small", "fp32", "full"): 4389.71,
    ("gpt-small", "bf16", "none"): 3277.52,
    ("gpt-small", "bf16", "full"): 2194.89,
    ("gpt-xl", "fp32", "none"): 40373.33,
    ("gpt-xl", "fp32", "full"): 25607.80,
    ("gpt-xl", "bf16", "none"): 20196.08,
    ("gpt-xl", "bf16", "full"): 12803.93,
}
PRINTED: Final = {"forward": (389, 263, 256, 143), "train": (24, 7, 8, 4)}


def main() -> None:
    """Print the tables."""
    _against_real_steps()
    _against_anchors()
    _against_memtracker()
    _against_the_notebook()


def _against_real_steps() -> None:
    print("Peaks against the memory events of the real step on this CPU (two steps; kernels' temporaries included):\n")
    print("| network | step | real MiB | trace | where | closed form | where |\n|---|---|--:|--:|---|--:|---|")
    errors: dict[str, list[float]] = {"trace": [], "closed form": []}
    for name, fields in NETWORKS.items():
        spec = spec_from_fields(fields)
        for label, step in STEPS:
            workload = Workload(seq_len=spec.max_seq_len - 4, **step)
            real_bytes = _real_peak_bytes(spec, workload)
            traced = memory_tape(spec, workload).peak()
            closed = estimate_memory(spec, workload).peak
            off = [peak.n_bytes / real_bytes - 1 for peak in (traced, closed)]
            errors["trace"].append(off[0])
            errors["closed form"].append(off[1])
            cells = [
                f"{error:+.3%} | {_largest_part(peak.parts)}" for error, peak in zip(off, (traced, closed), strict=True)
            ]
            print(f"| {name} | {label} | {real_bytes / MIB:.2f} | {cells[0]} | {cells[1]} |", flush=True)
    print()
    for kind, values in errors.items():
        sizes = [abs(value) for value in values]
        print(f"{kind}: {len(sizes)} steps, median error {statistics.median(sizes):.4%}, worst {max(sizes):.3%}.")
    print()


def _largest_part(parts: Tally) -> str:
    """The part that most of the peak is in: where an error of the peak has to be looked for."""
    return max(parts, key=lambda name: parts[name])


def _real_peak_bytes(spec: ModelSpec, workload: Workload) -> int:
    gc.collect()
    with tensor_peak() as counted:
        step = build_step(spec, workload)
        step()
        step()
    assert counted.peak_bytes is not None
    return counted.peak_bytes


def _against_anchors() -> None:
    print("| batch 4 x 1024 | tracked MiB | trace MiB | closed form MiB | closed form takes |\n|---|--:|--:|--:|--:|")
    for (model, dtype, recompute), anchor_mib in ANCHORS_MIB.items():
        spec, workload = load_spec(model), Workload(batch=4, phase="train", dtype=dtype, recompute=recompute)
        traced = memory_tape(spec, workload).peak().n_bytes
        began_s = time.process_time()
        closed = estimate_memory(spec, workload).peak_bytes
        took_s = time.process_time() - began_s
        label = f"{model}, {dtype}{', checkpointed' if recompute == 'full' else ''}"
        print(f"| {label} | {anchor_mib:.2f} | {traced / MIB:.2f} | {closed / MIB:.2f} | {took_s:.3f} s |", flush=True)
    print()


def _against_memtracker() -> None:
    print("| two training steps, batch 4 x 1024 | MemTracker | flopwatch | ratio | same peak |\n|---|--:|--:|--:|---|")
    for model in ("gpt-small", "gpt-medium", "gpt-xl"):
        spec, workload = load_spec(model), Workload(batch=4, phase="train")
        trace_step(spec, workload)  # both warm
        began_s = time.process_time()
        ours = trace_step(spec, workload, hidden_tensors=False).memory
        ours_s = time.process_time() - began_s
        began_s = time.process_time()
        theirs = _memtracker_peak_bytes(spec, workload)
        theirs_s = time.process_time() - began_s
        assert ours is not None
        same = "to the byte" if theirs == ours.peak_bytes else f"{ours.peak_bytes / theirs - 1:+.3%}"
        print(f"| {model} | {theirs_s:.1f} s | {ours_s:.1f} s | {theirs_s / ours_s:.1f} | {same} |", flush=True)
    print("\nCPU seconds of one run, model building included. At least 5 is wanted.\n")


def _memtracker_peak_bytes(spec: ModelSpec, workload: Workload) -> int:
    model = build_model(spec, device="meta", dtype=DTYPES[workload.dtype])
    with FakeTensorMode():
        fill(model)
        tracker = MemTracker()
        tracker.track_external(model)
        with tracker:
            step = make_step(model, workload)
            for _ in range(2):
                step()
                tracker.reset_mod_stats()
    return int(tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"])


def _against_the_notebook() -> None:
    print("Largest batches in 39,800 MiB (A100 40 GB, bf16, elementary, sum as loss, no optimizer), predicted:\n")
    print(f"| | {' | '.join(GPTS)} |\n|---|{'--:|' * len(GPTS)}")
    for phase, printed in PRINTED.items():
        work = Workload(phase=phase, dtype="bf16", ops="elementary", loss="sum", optimizer="none")
        clean = [predict_batch(load_spec(model), work, LIMIT_BYTES) for model in GPTS]
        _row(f"{phase}, printed by the notebook", printed)
        _row(f"{phase}, the notebook's search replayed, leaks and all", _leaky_search(work))
        _row(f"{phase}, clean search", [found.batch for found in clean])
        _row(f"{phase}, clean, and the same step again in that process", [found.repeated_batch for found in clean])
    print()


def _row(label: str, batches: Any) -> None:
    print(f"| {label} | {' | '.join(str(batch) for batch in batches)} |")


def _leaky_search(work: Workload) -> list[int]:
    """The notebook's bisection in one process: the cache is emptied while the failed try's tensors are still alive."""
    allocator = CachingAllocator(LIMIT_BYTES)
    found = []
    for model in GPTS:
        lines = _lines(load_spec(model), work)
        low, high, best = 1, 4096, 0
        while low <= high:
            batch = (low + high) // 2
            if _try(allocator, *lines.events_at(batch)):
                low, best = batch + 1, batch
            else:
                high = batch - 1
        found.append(best)
    return found


def _lines(spec: ModelSpec, work: Workload) -> AnyBatch:
    def make(batch: int) -> Any:
        one = msgspec.structs.replace(work, batch=batch)
        return step_tape(spec, one, device_type="cuda")

    return AnyBatch(make)


def _try(allocator: CachingAllocator, events: list[int], sizes: list[int]) -> bool:
    alive: dict[int, Any] = {}
    fits = True
    for event in events:
        if event < 0:
            allocator.free(alive.pop(~event))
            continue
        try:
            alive[event] = allocator.allocate(sizes[event])
        except OutOfDeviceMemoryError:
            fits = False
            allocator.empty_cache()  # inside `except`, where the traceback still owns every tensor
            break
    for block in alive.values():
        allocator.free(block)
    if fits:
        allocator.empty_cache()
    return fits


if __name__ == "__main__":
    main()
