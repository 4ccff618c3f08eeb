"""The options of `flopwatch bench` beside those of the step: which batch, and what is set beside it."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import msgspec
from cyclopts import Parameter

from flopwatch import units
from flopwatch.api.bench_series import BenchSeries
from flopwatch.api.best_batch import best_batch
from flopwatch.api.explore import explore as explore_choices
from flopwatch.api.fit import fit
from flopwatch.api.why import check_why, explain
from flopwatch.cli.options import Bytes, Count, StepOptions
from flopwatch.errors import InputError
from flopwatch.measure.fit import does_not_fit
from flopwatch.model.own import Model
from flopwatch.record import BenchResult
from flopwatch.store import Store
from flopwatch.workload import Workload


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Which batch is timed, and what is set beside it."""

    batch: str = "1"
    """Sequences in one step; `max` for the largest that fits, `best` for the one with the most tokens/s."""
    limit: Bytes | None = None
    """With --batch max, the memory that the batch has to fit in."""
    global_batch: Count | None = None
    """With --batch best, the sequences that one training step is to have: the micro-batches that make it up."""
    explore: Annotated[bool, Parameter(negative="")] = False
    """Time the step again with one thing changed: attention, dtype, recompute, optimizer, batch, compile. What pays?"""
    why: Annotated[bool, Parameter(negative="")] = False
    """On a CPU, split the step's time: matmuls, attention, elementwise work, optimizer, overhead, each at best."""
    compile: Annotated[bool, Parameter(negative="")] = False
    """Each layer through torch.compile; compiling is part of the warm-up."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.batch != "max":
            raise InputError(f"--limit has no meaning with --batch {self.batch}", hint="use --batch max")
        if self.global_batch is not None and self.batch != "best":
            raise InputError(f"--global-batch has no meaning with --batch {self.batch}", hint="use --batch best")
        if self.global_batch is not None and self.global_batch < 1:
            raise InputError(f"--global-batch {self.global_batch} is no batch", hint="it counts from 1")
        if self.why and self.compile:
            raise InputError("--why cannot look into a compiled step", hint="leave out --compile")
        if self.batch not in {"max", "best"}:
            Workload(batch=units.parse_count(self.batch))

    def check(self, step: StepOptions) -> None:
        """Refuse a global batch of what is not trained, or is accumulated already."""
        if self.global_batch is None:
            return
        if step.phase != "train":
            raise InputError(f"--global-batch has no meaning in phase {step.phase}", hint="use --phase train")
        if step.accumulate != 1:
            raise InputError("--global-batch and --accumulate contradict each other", hint="give one of them")

    def check_work(self, spec: Model, work: Workload, *, kind: str) -> None:
        """Refuse a step that --why cannot split."""
        if not self.why:
            return
        check_why(spec, work, kind=kind)

    def measure(
        self, spec: Model, work: Workload, benches: BenchSeries, store: Store, *, timeout_s: float | None = None
    ) -> BenchResult:
        """The benchmark that was asked for; raises DoesNotFitError when not even batch 1 fits.

        `timeout_s` is for each try of --batch max and each choice of --explore; timings have that of `benches`.
        """
        result = self._timed(spec, work, benches, timeout_s=timeout_s)
        if not self.why:
            return result
        return explain(spec, msgspec.structs.replace(work, batch=result.batch), result, benches, store=store)

    def _timed(self, spec: Model, work: Workload, benches: BenchSeries, *, timeout_s: float | None) -> BenchResult:
        search = None
        if self.batch == "best":
            found = best_batch(spec, work, benches, compiled=self.compile, global_batch=self.global_batch)
            if not self.explore:
                return found
            batch, search = found.batch, found.batch_search
        elif self.batch == "max":
            batch = self._largest(spec, work, benches, timeout_s=timeout_s)
        elif self.batch == "1":
            batch = work.batch  # inputs that the user's code brings may be a batch of another size
        else:
            batch = units.parse_count(self.batch)
        work = msgspec.structs.replace(work, batch=batch)
        if self.explore:
            result = explore_choices(spec, work, benches, compiled=self.compile, timeout_s=timeout_s)
            result = msgspec.structs.replace(result, batch_search=search)
        else:
            result = benches.measure(spec, work, compiled=self.compile)[1]
        if self.batch == "max" and self.compile:
            notes = [*result.details["notes"], "the largest batch was searched without torch.compile"]
            result = msgspec.structs.replace(result, details={**result.details, "notes": notes})
        return result

    def _largest(self, spec: Model, work: Workload, benches: BenchSeries, *, timeout_s: float | None) -> int:
        found = fit(
            spec,
            work,
            limit_bytes=self.limit,
            series=benches.series,
            machine=benches.machine,
            timeout_s=timeout_s,
        )
        if found.batch is None:
            raise does_not_fit(found)
        return found.batch
