"""The largest batch: flopwatch fit beside the notebook's bisection, accelerate's and Lightning's finders.

All get the same step (two training steps of a small GPT, model and optimizer made anew each try) and the same limit, a
real one on the process; in one case few sequences fit, so that most tries of a bisection fail at once, in the other
many. The others search in one process, as they do for their users; fit's tries are processes of their own. Importing
torch and the peers is left out for all. With --truth each answer of eight other searches is confirmed three times over
in fresh processes.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flopwatch.measure.fit import FitRequest, fit_batch
from flopwatch.measure.limit import given_limit
from flopwatch.measure.series import ProbeSeries
from flopwatch.model.spec import ModelSpec
from flopwatch.probe.protocol import ProbeRequest
from flopwatch.probe.runner import ProbeRunner
from flopwatch.workload import Workload

ROOT = Path(__file__).parents[1]
DATA = tomllib.loads((ROOT / "tests" / "data" / "fit_cases.toml").read_text(encoding="utf-8"))
CASES = (
    (
        ModelSpec(name="bench", n_layers=4, d_model=144, n_heads=6, vocab_size=2003, max_seq_len=160),
        Workload(seq_len=157, phase="train", dtype="fp32"),
        181 << 20,
    ),
    (
        ModelSpec(name="bench", n_layers=2, d_model=96, n_heads=4, vocab_size=503, max_seq_len=64),
        Workload(seq_len=61, phase="train", dtype="fp32"),
        701 << 20,
    ),
)
MOST = 4096
N_STEPS = 2

Step = Callable[[int], None]
FINDERS = {
    "bisection": "bisection from 1 to 4096, error caught",
    "accelerate": "accelerate `find_executable_batch_size` from 4096",
    "lightning": "Lightning `scale_batch_size`, binsearch",
}


def main() -> None:
    """Print the table of the finders, and with --truth that of the eight searches."""
    if "--truth" in sys.argv[1:]:
        _truth()
        return
    with ProbeRunner() as runner:
        runner.run(ProbeRequest(job="detect", arguments={"device": "cpu"}, timeout_s=120.0))  # starts it
        for spec, workload, limit_bytes in CASES:
            _compare(spec, workload, limit_bytes, runner)
    print("The goal is a quarter of the bisection's time. Lightning runs 3 steps of its loop a try, here 3 x 2.")


def _compare(spec: ModelSpec, workload: Workload, limit_bytes: int, runner: ProbeRunner) -> None:
    """Print one table: every finder on the same step under the same limit."""
    began_s = time.perf_counter()
    found = fit_batch(_request(spec, workload, limit_bytes), ProbeSeries(run=runner.run))
    rows = [("flopwatch `fit`", *_tries([p.outcome for p in found.probes]), found.batch, time.perf_counter() - began_s)]
    for finder, name in FINDERS.items():
        case = {"spec": spec.to_dict(), "workload": workload.to_dict(), "limit_bytes": limit_bytes}
        asked = ProbeRequest(
            job="benchmarks.bench_fit:search_in_process",
            arguments={"finder": finder, **case},
            timeout_s=1800.0,
            n_threads=1,
            tight_memory=True,
            import_from=[str(ROOT)],
        )
        outcome = runner.run(asked)
        if outcome.result is None:
            sys.exit(f"{name}: {outcome.outcome} ({outcome.error})")
        rows.append((name, *_tries(outcome.result["outcomes"]), outcome.result["batch"], outcome.result["wall_s"]))
    print(
        f"{spec.n_layers} layers of {spec.d_model}, {workload.seq_len} tokens, fp32, AdamW, {limit_bytes >> 20} MiB.\n"
    )
    print("| finder | tries | out of memory | answer | s | times fit |\n|---|--:|--:|--:|--:|--:|")
    for name, n_tries, n_oom, batch, wall_s in rows:
        print(f"| {name} | {n_tries} | {n_oom} | {batch} | {wall_s:.1f} | {wall_s / rows[0][-1]:.1f} |")
    print(flush=True)


def search_in_process(arguments: dict[str, Any]) -> dict[str, Any]:
    """A job: one finder's whole search under a real limit: `{batch, outcomes, wall_s}`."""
    from flopwatch.probe.limits import memory_of

    search: Callable[[Step], int] = {"bisection": _bisect, "accelerate": _accelerate, "lightning": _lightning}[
        arguments["finder"]
    ]
    if arguments["finder"] != "bisection":
        __import__(arguments["finder"])
    outcomes: list[str] = []
    memory = memory_of("cpu")
    memory.limit(arguments["limit_bytes"])
    began_s = time.perf_counter()
    try:
        batch = search(_counted(outcomes, arguments))
    finally:
        memory.lift()
    return {"batch": batch, "outcomes": outcomes, "wall_s": time.perf_counter() - began_s}


def _counted(outcomes: list[str], case: dict[str, Any]) -> Step:
    """The step that each finder calls, and a list of how its calls ended."""
    from flopwatch.probe.jobs_step import fit_step

    def step(batch: int) -> None:
        outcomes.append("oom")
        workload = {**case["workload"], "batch": batch}
        fit_step({"spec": case["spec"], "workload": workload, "device": "cpu", "n_steps": N_STEPS})
        outcomes[-1] = "ok"

    return step


def _bisect(step: Step) -> int:
    """As the notebook does it: halve what is left between what ran and what did not."""
    low, high, best = 1, MOST, 0
    while low <= high:
        middle = (low + high) // 2
        try:
            step(middle)
            best, low = middle, middle + 1
        except (RuntimeError, MemoryError):
            high = middle - 1
    return best


def _accelerate(step: Step) -> int:
    from accelerate.utils import find_executable_batch_size

    @find_executable_batch_size(starting_batch_size=MOST)
    def run(batch_size: int) -> int:
        step(batch_size)
        return batch_size

    return run()


def _lightning(step: Step) -> int:
    import lightning
    import torch
    from lightning.pytorch.tuner import Tuner
    from torch.utils.data import DataLoader, TensorDataset

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")

    class Work(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.batch_size = 2
            self.automatic_optimization = False
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def training_step(self, batch: list[torch.Tensor], _index: int) -> None:
            step(len(batch[0]))
            self.optimizers().step()  # Lightning counts its steps by those of the optimizer

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.0)

        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(TensorDataset(torch.zeros(10 * MOST, 1)), batch_size=self.batch_size)

    folder = tempfile.TemporaryDirectory()  # the tuner keeps a checkpoint meanwhile
    trainer = lightning.Trainer(
        default_root_dir=folder.name,
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with folder:
        found = Tuner(trainer).scale_batch_size(Work(), mode="binsearch", steps_per_trial=3, max_trials=40)
    return int(found or 0)


def _tries(outcomes: list[str]) -> tuple[int, int]:
    return len(outcomes), sum(outcome != "ok" for outcome in outcomes)


def _request(spec: ModelSpec, workload: Workload, limit_bytes: int) -> FitRequest:
    return FitRequest(spec=spec, workload=workload, limit=given_limit(limit_bytes), n_threads=1)


def _truth() -> None:
    """Eight searches: the answer, its tries, and how often B ran and B + 1 did not, of three each."""
    print("| model | step | limit, MiB | batch | predicted | tries | B ran | B + 1 did not |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    with ProbeRunner() as runner:
        for case in DATA["cases"]:
            spec = ModelSpec(name=case["model"], **DATA["models"][case["model"]])
            workload = Workload(dtype="fp32", **case["workload"])
            request = _request(spec, workload, case["limit_mib"] << 20)
            found = fit_batch(request, ProbeSeries(run=runner.run))
            batch = found.batch or 0
            ran = [runner.run(request.probe(batch)).is_ok for _ in range(3)]
            failed = [not runner.run(request.probe(batch + 1)).is_ok for _ in range(3)]
            step = ", ".join(str(value) for value in case["workload"].values())
            print(
                f"| {spec.name} | {step} | {case['limit_mib']} | {batch} | {found.predicted_batch}"
                f" | {len(found.probes)} | {sum(ran)} of 3 | {sum(failed)} of 3 |",
                flush=True,
            )


if __name__ == "__main__":
    main()
