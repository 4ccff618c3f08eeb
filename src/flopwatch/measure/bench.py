"""How long a step takes here: warm-up until steady, then samples, in a process of its own."""

from __future__ import annotations

import os
import platform
from typing import Any, Final

import msgspec

from flopwatch.errors import DoesNotFitError
from flopwatch.measure.limit import Limit
from flopwatch.measure.series import ProbeSeries, Progress, answer_of
from flopwatch.measure.timing import Timing, timing_of
from flopwatch.model.own import Model, import_from, imports, probe_arguments
from flopwatch.probe.protocol import ProbeOutcome, ProbeRequest
from flopwatch.probe.sampling import N_STEPS_BEFORE, SamplePlan, was_warm
from flopwatch.units import format_bytes
from flopwatch.workload import Workload

_ENOUGH_SAMPLES: Final = 5
LEAST_STEPS: Final = N_STEPS_BEFORE + _ENOUGH_SAMPLES
"""A step is timed that has as many within its time."""
_BUSY_CORES: Final = 0.15  # what a quiet system uses for itself stays below
_MANY_PAGES: Final = 1000
_KERNEL_FRACTION: Final = 0.1
_SKEW_FRACTION: Final = 0.02  # a clock that is being set moves by less; one that is off by more spoils the figure


class BenchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The step to be timed. `limit` only protects the machine: no time is taken under a tight one."""

    spec: Model
    workload: Workload
    limit: Limit
    device: str = "cpu"
    plan: SamplePlan = SamplePlan()
    timeout_s: float = 1800.0
    n_threads: int | None = None
    compiled: bool = False
    repeat: int = 0
    """Which time the same step is timed: a series answers equal requests from its journal."""

    def probe(self) -> ProbeRequest:
        """The probe that times the step."""
        more: dict[str, Any] = {"compiled": True} if self.compiled else {}
        if self.repeat:
            more["repeat"] = self.repeat
        return ProbeRequest(
            job="bench_step",
            arguments={
                **probe_arguments(self.spec),
                "workload": self.workload.to_dict(),
                "device": self.device,
                "plan": msgspec.to_builtins(self.plan),
                **more,
            },
            limit_bytes=self.limit.limit_bytes,
            device=self.device,
            timeout_s=self.timeout_s,
            n_threads=self.n_threads,
            import_from=import_from(self.spec),
            imports=imports(self.spec),
        )


class StepMeasurement(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a step: its Timing, its memory, the threads it ran on, and what makes the figure less sure.

    `tensor_peak_bytes` is the exact peak of live tensors; `allocated_peak_bytes` is what the allocator took for them.
    """

    timing: Timing
    tensor_peak_bytes: int | None
    allocated_peak_bytes: int | None
    n_threads: int | None
    n_steps_per_sample: int
    notes: list[str]
    disturbed: str | None = None
    """Why this time says little of the step by itself: others used its cores."""


def bench_step(request: BenchRequest, series: ProbeSeries) -> StepMeasurement:
    """How long the step takes, from at least five samples after warm-up.

    Raises DoesNotFitError when it runs out of memory, and ProbeError when it ends before there are enough samples.
    """
    request.spec.check_seq_len(request.workload.seq_len)
    label = f"{request.spec.name} {request.workload.phase}: timing batch {request.workload.batch}"
    series.watch(Progress(label=label))
    outcome = series.ask(
        request.probe(),
        kind="samples",
        on_progress=lambda rows: series.watch(_progress(label, rows, request.plan)),
    )
    summary = _summary(request, outcome)
    others = others_notes(summary["others_cores"], outcome, request.device)
    timing = timing_of(summary["samples_s"], n_warmup=summary["n_warmup"], is_steady=summary["is_steady"])
    return StepMeasurement(
        timing=timing,
        tensor_peak_bytes=summary["tensor_peak_bytes"],
        allocated_peak_bytes=outcome.peak_bytes,
        n_threads=outcome.n_threads,
        n_steps_per_sample=summary["n_steps"],
        notes=[
            *others,
            *_ending_notes(outcome, timing),
            *_memory_notes(summary["tensor_peak_bytes"], outcome, request.device),
            *_clock_notes(summary.get("clock_ratio")),
            *_fresh_notes(summary.get("fresh") or {}, request.device),
            *timing.notes,
        ],
        disturbed=others[0] if others else None,
    )


def is_step_done(request: BenchRequest, series: ProbeSeries, *, within_s: float) -> bool:
    """Whether the first step is done in that time; what else may become of it is for `bench_step` to say."""
    asked = request.probe()
    arguments = {**asked.arguments, "n_steps": 1}
    one_step = msgspec.structs.replace(asked, job="fit_step", arguments=arguments, timeout_s=within_s)
    series.watch(Progress(label=f"{request.spec.name} {request.workload.phase}: one step in {request.workload.dtype}"))
    return series.ask(one_step).outcome != "timeout"


def joined(one: StepMeasurement, other: StepMeasurement) -> StepMeasurement:
    """One measurement of a step from two: all samples of both; the larger memory, and whatever was noted of either."""
    more = other.timing
    timing = timing_of(
        [*one.timing.samples_s, *more.samples_s],
        n_warmup=one.timing.n_warmup + more.n_warmup,
        is_steady=one.timing.is_steady and more.is_steady,
    )
    notes = [*_without(one.notes, one.timing.notes), *_without(other.notes, more.notes), *timing.notes]
    return msgspec.structs.replace(
        other,
        timing=timing,
        tensor_peak_bytes=_larger(one.tensor_peak_bytes, other.tensor_peak_bytes),
        allocated_peak_bytes=_larger(one.allocated_peak_bytes, other.allocated_peak_bytes),
        notes=list(dict.fromkeys(notes)),
        disturbed=other.disturbed or one.disturbed,
    )


def with_timing(one: StepMeasurement, timing: Timing, *, n_steps: int) -> StepMeasurement:
    """The measurement of a step with another timing of it, of so many steps a sample."""
    notes = [*_without(one.notes, one.timing.notes), *timing.notes]
    return msgspec.structs.replace(one, timing=timing, n_steps_per_sample=n_steps, notes=notes)


def _without(notes: list[str], left_out: list[str]) -> list[str]:
    return [note for note in notes if note not in left_out]


def _larger(one: int | None, other: int | None) -> int | None:
    return max((n for n in (one, other) if n is not None), default=None)


def _summary(request: BenchRequest, outcome: ProbeOutcome) -> dict[str, Any]:
    """The job's last row, or one made of the samples that it had reported before its time was up."""
    if outcome.outcome == "oom":
        workload = request.workload
        raise DoesNotFitError(
            f"batch {workload.batch} of {request.spec.name} ({workload.phase}, {workload.seq_len} tokens) does not fit"
            f" in {format_bytes(request.limit.limit_bytes)} ({request.limit.source})",
            hint="`flopwatch fit` finds the largest that does",
        )
    rows = [row for row in outcome.partial if "sample_s" in row]
    if outcome.outcome == "timeout" and len(rows) >= _ENOUGH_SAMPLES:
        samples_s = [row["sample_s"] for row in rows]
        warmup_s = [row["warmup_s"] for row in outcome.partial if "warmup_s" in row]
        return {
            "samples_s": samples_s,
            "n_steps": rows[0]["n_steps"],
            "n_warmup": N_STEPS_BEFORE + len(warmup_s),
            "is_steady": was_warm(warmup_s, samples_s, request.plan),
            "tensor_peak_bytes": None,
            "others_cores": None,
        }
    return answer_of(outcome, what=f"timing {request.spec.name}")


def others_notes(others_cores: float | None, outcome: ProbeOutcome, device: str) -> list[str]:
    """That others used cores that the step would have had; nothing where they did not, or nobody knows."""
    if others_cores is None or device != "cpu" or outcome.n_threads is None:
        return []
    n_cores = os.cpu_count() or 1
    if others_cores < _BUSY_CORES or outcome.n_threads + others_cores < n_cores + _BUSY_CORES:
        return []
    return [
        f"other processes kept {others_cores:.1f} of {n_cores} cores busy while the step was timed on"
        f" {outcome.n_threads} threads: it may be faster on a quiet machine"
    ]


def _ending_notes(outcome: ProbeOutcome, timing: Timing) -> list[str]:
    if outcome.is_ok:
        return []
    return [f"the time was up after {len(timing.samples_s)} samples: raise --timeout for more"]


def _memory_notes(peak_bytes: int | None, outcome: ProbeOutcome, device: str) -> list[str]:
    """Why a step that was timed has no peak memory."""
    if peak_bytes is not None or not outcome.is_ok:
        return []
    if device.split(":")[0] == "cpu":
        return [
            "peak memory is n/a: the step was timed, but running it again with every allocation counted did not fit"
        ]
    return [f"peak memory is n/a: torch counts no memory on {device}"]


def _clock_notes(ratio: float | None) -> list[str]:
    """That the clock which timed the steps and the time of day do not agree how long that took."""
    if ratio is None or abs(ratio - 1) <= _SKEW_FRACTION:
        return []
    return [
        f"the time of day moved by {ratio:.2f} s for each second of the clock that timed the steps: one of the two is"
        " wrong (a clock being set, or a virtual machine's): time the step again"
    ]


def _fresh_notes(fresh: dict[str, float], device: str) -> list[str]:
    """That a part of the step is the system handing out memory which the step before gave back."""
    if device != "cpu" or not fresh or fresh["pages"] < _MANY_PAGES or fresh["kernel_share"] < _KERNEL_FRACTION:
        return []
    note = (
        f"{fresh['kernel_share']:.0%} of the CPU time is the system's: each step gives memory back and takes"
        f" {fresh['pages']:,.0f} pages anew (MALLOC_MMAP_MAX_=0 and MALLOC_TRIM_THRESHOLD_=68719476736 in the"
        " environment make glibc keep it)"
    )
    return [note if platform.libc_ver()[0] == "glibc" else note[: note.index(" (MALLOC")]]


def _progress(label: str, rows: list[dict[str, Any]], plan: SamplePlan) -> Progress:
    """Where the timing stands, from the rows so far: steps ahead at the pace of the last one."""
    samples_s = [row["sample_s"] * row["n_steps"] for row in rows if "sample_s" in row]
    warmup_s = [row["warmup_s"] for row in rows if "warmup_s" in row]
    if not samples_s:
        last_s = warmup_s[-1] if warmup_s else None
        left_s = None if last_s is None else max(plan.target_s, plan.min_samples * last_s) + last_s
        return Progress(label=f"{label} (warm-up)", done_fraction=0.0, left_s=left_s)
    by_count_s = (plan.min_samples - len(samples_s)) * samples_s[-1]
    by_time_s = min(plan.target_s - sum(samples_s), plan.max_samples * samples_s[-1])
    left_s = max(by_count_s, by_time_s, samples_s[-1])  # one more at least: samples that differ want more of them
    return Progress(label=label, done_fraction=sum(samples_s) / (sum(samples_s) + left_s), left_s=left_s)
