"""The options of `flopwatch report`, and the request that they make."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Final

from cyclopts import Parameter

from flopwatch import workload
from flopwatch.api.report import ReportRequest
from flopwatch.cli.options import Bytes, Count, DTypeOption, Seconds, SeqLen
from flopwatch.cost.convention import DEFAULT, find_convention
from flopwatch.device.machine import Machine
from flopwatch.errors import InputError
from flopwatch.measure.batch_search import MOST
from flopwatch.measure.dtype import check_dtype, default_dtype
from flopwatch.measure.limit import free_limit, given_limit
from flopwatch.measure.series import ProbeSeries
from flopwatch.model.spec import ModelSpec
from flopwatch.workload import Workload

_CPU_BUDGET_S: Final = 480.0  # a processor takes minutes over what a card does in seconds
_SEQ_LEN: Final = 1024
_CPU_SEQ_LEN: Final = 256


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What is measured, and how far it may go."""

    seq: SeqLen | None = None
    """Tokens in a sequence, 8k = 8192; 1024 (256 on a CPU), or the shortest context where that is less."""
    phase: Annotated[tuple[workload.Phase, ...], Parameter(consume_multiple=False, negative="")] = ("forward", "train")
    """Which steps (repeatable): forward and train when left out."""
    limit: Bytes | None = None
    """Memory that the work may allocate, 2GiB; left out, what is free now less a headroom."""
    budget: Seconds | None = None
    """Time for all searches and timings, 8min or 1h (8min on a CPU): what takes longer is left out, and it says so."""
    max_batch: Annotated[Count | None, Parameter(name="--max")] = None
    """The largest batch to try."""
    batch: Count | None = None
    """The batch to time; left out, the largest that fits and that there is time for."""
    dtype: DTypeOption = None
    """Weights, activations and optimizer state; left out, what is fast here, which is printed."""
    precision: workload.Precision = "pure"
    """autocast: weights and optimizer in fp32, matmuls in --dtype."""
    optimizer: workload.Optimizer = "adamw"
    """The optimizer of the training step."""
    recompute: workload.Recompute = "none"
    """full: in training, every layer is checkpointed."""
    attention: workload.Attention = "auto"
    """math writes the scores out, flash does not; auto is what torch takes."""
    ops: workload.Ops = "fused"
    """elementary: the network as the book builds it, from elementary operations."""
    convention: str = DEFAULT
    """How FLOPs are counted (docs/conventions.md)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, rocm, xpu or mps."""

    def __post_init__(self) -> None:
        find_convention(self.convention)
        if self.limit is not None:
            given_limit(self.limit)
        if self.dtype in {"fp8", "int8"}:
            raise InputError(f"--dtype {self.dtype} cannot be run", hint="use fp32, bf16 or fp16")
        if "train" not in self.phase and (self.optimizer != "adamw" or self.recompute != "none"):
            raise InputError("--optimizer and --recompute have no meaning without training", hint="add --phase train")
        if self.batch is not None and self.max_batch is not None and self.batch > self.max_batch:
            raise InputError(f"--batch {self.batch} is more than --max {self.max_batch}", hint="give one of them")

    def check(self, specs: Sequence[ModelSpec]) -> None:
        """Raise SpecError for a sequence that is longer than a model's context."""
        for spec in specs:
            spec.check_seq_len(self.seq or 1)

    def workload(self, specs: Sequence[ModelSpec], machine: Machine) -> Workload:
        """The step that all models are measured with; raises InputError for a dtype that would run as another."""
        usual = _CPU_SEQ_LEN if machine.kind == "cpu" else _SEQ_LEN
        dtype = self.dtype or default_dtype(machine)
        check_dtype(dtype, machine)
        work = Workload(
            seq_len=self.seq if self.seq is not None else min(usual, *(spec.max_seq_len for spec in specs)),
            phase="train",
            dtype=dtype,
            precision=self.precision,
            optimizer=self.optimizer,
            recompute=self.recompute,
            attention=self.attention,
            ops=self.ops,
        )
        work.check_precision()
        return work

    def asked(self, specs: Sequence[ModelSpec], step: Workload) -> dict[str, Any]:
        """What is asked as plain data: two runs with the same are the same run."""
        own = {
            "phases": list(self.phase),
            "limit_bytes": self.limit,
            "budget_s": self.budget,
            "max_batch": self.max_batch,
            "batch": self.batch,
            "convention": self.convention,
            "device": self.device,
        }
        return {"models": [spec.to_dict() for spec in specs], "workload": step.to_dict(), **own}

    def request(
        self, specs: Sequence[ModelSpec], step: Workload, *, machine: Machine, series: ProbeSeries, timeout_s: float
    ) -> ReportRequest:
        """The request to the library, with the limit and the time that hold on this machine."""
        cpu_budget_s = _CPU_BUDGET_S if machine.kind == "cpu" else None
        return ReportRequest(
            specs=specs,
            workload=step,
            limit=given_limit(self.limit) if self.limit is not None else free_limit(series, machine),
            device=machine.torch_device,
            phases=self.phase,
            convention=self.convention,
            max_batch=self.max_batch or MOST,
            bench_batch=self.batch,
            budget_s=self.budget if self.budget is not None else cpu_budget_s,
            timeout_s=timeout_s,
        )
