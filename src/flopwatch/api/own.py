"""Models that the user's code makes (`package.module:factory`), as `bench` and `fit` run them: asked of a probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from flopwatch.api.count import resolve_spec
from flopwatch.compare.bench import StepWork
from flopwatch.cost.convention import DEFAULT, Convention
from flopwatch.errors import InputError
from flopwatch.measure.series import ProbeSeries, Progress, answer_of
from flopwatch.model.load import is_factory
from flopwatch.model.own import Model, OwnModel, import_from, own_model, probe_arguments
from flopwatch.probe.protocol import ProbeRequest
from flopwatch.record import MemoryResult, Uncounted
from flopwatch.workload import DType, Workload

Wanted = Literal["size", "work", "lines"]
"""What is asked: the size of the inputs; FLOPs and peak at this batch too; or what gives the peak of any batch."""

_JOBS: Final = "flopwatch.api.own_child"


class OwnWork(msgspec.Struct, frozen=True, kw_only=True):
    """What a run without data said of a step of the user's: its size, its FLOPs by dtype, and its memory.

    `batch` and `seq_len` are those of the inputs; a sample that is no sequence of tokens has length 1. `loss` is what
    backward started from. `predicted_parts` is the peak at this batch. `peak_lines` [a, b]: the peak at a batch from 2
    on is the highest a + b * batch, at batch 1 it is `first_peak_bytes`. `no_prediction`: why there is none.
    `lets_cudnn_use_tf32`: fp32 convolutions or recurrent layers that cuDNN may run in tf32, as torch has it by default.
    """

    takes_batch: bool
    takes_seq_len: bool
    batch: int
    seq_len: int
    unit: Literal["tokens", "samples"]
    dtype: DType
    n_params: int
    loss: Literal["own", "cross-entropy", "sum"] | None = None
    model_flops: dict[str, int] = {}
    hardware_flops: dict[str, int] = {}
    uncounted: list[Uncounted] = []
    notes: list[str] = []
    predicted_parts: dict[str, int] | None = None
    first_peak_bytes: int | None = None
    peak_lines: list[tuple[int, int]] | None = None
    no_prediction: str | None = None
    lets_cudnn_use_tf32: bool = False

    def peak_bytes(self, batch: int) -> int | None:
        """The predicted peak at a batch; None where there is no prediction."""
        if self.peak_lines is None or batch == 1:
            return self.first_peak_bytes
        return max(a + b * batch for a, b in self.peak_lines)

    def step_work(self, workload: Workload) -> StepWork:
        """The FLOPs of one step, all accumulated micro-batches together, with what makes them less sure."""
        return StepWork(
            model_flops=_as_run(self.model_flops, workload),
            hardware_flops=_as_run(self.hardware_flops, workload),
            predicted_parts=self.predicted_parts,
            unit=self.unit,
            details={
                "source": "trace",
                "n_params": self.n_params,
                "uncounted": [msgspec.to_builtins(entry) for entry in self.uncounted],
                **({"loss": self.loss} if workload.is_train else {}),
            },
            notes=[*self.notes, *self._doubts(workload)],
        )

    def _doubts(self, workload: Workload) -> list[str]:
        doubts = ["a sample counts as one token in what is said of tokens"] if self.unit == "samples" else []
        doubts += [
            f"not counted, and it looks like a matmul: {entry.op} ({entry.calls} calls): FLOP/s and MFU are too low"
            for entry in self.uncounted
            if entry.looks_like_matmul
        ]
        if self.loss == "sum" and workload.loss != "sum":
            doubts.append(
                "backward starts from the sum of the output: for your own loss give the model's output a `.loss`"
            )
        return doubts


def _as_run(flops: Mapping[str, int], workload: Workload) -> dict[str, int]:
    """FLOPs by the dtype that the matmuls run in: a trace sees fp32 tensors, whichever mode multiplies them."""
    return {"tf32" if workload.dtype == "tf32" and dtype == "fp32" else dtype: n for dtype, n in flops.items()}


class OwnOperators(msgspec.Struct, frozen=True, kw_only=True):
    """Every operator of one step of the user's, from a trace of it, at the sizes and in the dtype that it really has.

    An entry of `operators` is a name, a phase, a dtype, FLOPs and bytes of one call, and the number of such calls.
    """

    batch: int
    seq_len: int
    dtype: DType
    model_flops: int
    operators: list[tuple[str, str, str | None, int, int, int]]
    uncounted: list[Uncounted] = []
    notes: list[str] = []


def resolve_model(model: str | Model, changes: Mapping[str, str] | None = None) -> Model:
    """What a user means by a model that is to be run: a spec, or the code behind `package.module:factory`."""
    if isinstance(model, OwnModel):
        return model
    if isinstance(model, str) and is_factory(model):
        return own_model(model, changes)
    return resolve_spec(model, changes)


def check_own(workload: Workload) -> None:
    """Raise InputError for what only the reference network can be asked."""
    refused = {
        "--phase": (workload.phase, workload.phase in {"forward", "train"}),
        "--recompute": (workload.recompute, workload.recompute == "none"),
        "--attention": (workload.attention, workload.attention == "auto"),
        "--ops": (workload.ops, workload.ops == "fused"),
    }
    for option, (value, is_possible) in refused.items():
        if not is_possible:
            raise InputError(
                f"{option} {value} has no meaning for a model of your own code",
                hint="build it into the factory, and choose it with --set",
            )


def check_own_convention(model: Model, convention: Convention) -> None:
    """Raise InputError for a convention that code of the user's cannot be counted under: its FLOPs are traced."""
    if isinstance(model, OwnModel) and convention.name != DEFAULT:
        raise InputError(
            f"{model.name} is counted by a trace, not under --convention {convention.name}", hint="leave it out"
        )


def own_work(
    own: OwnModel,
    workload: Workload,
    series: ProbeSeries,
    *,
    wanted: Wanted,
    keep_dtype: bool = False,
    limit_bytes: int | None = None,
    timeout_s: float = 600.0,
) -> OwnWork:
    """What the user's code makes of `workload`, found out in a process of its own; asked once in a series.

    Raises InputError for code that does not keep to the rules of docs/models.md, ProbeError for code that fails.
    """
    asked = {"wanted": wanted, "keep_dtype": keep_dtype}
    found = _ask("own_work", own, workload, series, asked, limit_bytes=limit_bytes, timeout_s=timeout_s)
    return msgspec.convert(found, OwnWork)


def own_memory_result(
    own: OwnModel, workload: Workload, series: ProbeSeries, *, keep_dtype: bool, timeout_s: float = 600.0
) -> MemoryResult:
    """The peak of the user's step by part, from a run of it without data in a process of its own."""
    found = _ask("own_memory", own, workload, series, {"keep_dtype": keep_dtype}, timeout_s=timeout_s)
    return msgspec.convert(found, MemoryResult)


def own_operators(own: OwnModel, workload: Workload, series: ProbeSeries, *, timeout_s: float = 600.0) -> OwnOperators:
    """The operators of the user's step, from a trace of it in a process of its own."""
    found = _ask("own_operators", own, workload, series, {"keep_dtype": False}, timeout_s=timeout_s)
    return msgspec.convert(found, OwnOperators)


def _ask(
    job: str,
    own: OwnModel,
    workload: Workload,
    series: ProbeSeries,
    asked: Mapping[str, Any],
    *,
    limit_bytes: int | None = None,
    timeout_s: float,
) -> Any:
    """What a job of `own_child` answers, from a process of its own that runs the user's code."""
    check_own(workload)
    series.watch(Progress(label=f"{own.name}: tracing your code"))
    request = ProbeRequest(
        job=f"{_JOBS}:{job}",
        arguments={**probe_arguments(own), "workload": workload.to_dict(), "is_inside": True, **asked},
        limit_bytes=limit_bytes,
        timeout_s=timeout_s,
        import_from=import_from(own),
    )
    outcome = series.ask(request)
    if not outcome.is_ok and _is_death(outcome.failure or ""):  # an operator that does not bear to run alone
        arguments = {**request.arguments, "is_inside": False}
        outcome = series.ask(msgspec.structs.replace(request, arguments=arguments))
    return answer_of(outcome, what=f"running {own.name} without data")


def _is_death(failure: str) -> bool:
    """Whether a child ended in the middle, without an exception."""
    return failure == "no-answer" or failure.startswith("SIG")


def settle(
    model: Model,
    workload: Workload,
    series: ProbeSeries,
    *,
    is_dtype_given: bool,
    is_seq_len_given: bool,
    timeout_s: float = 600.0,
) -> Workload:
    """The workload that runs: as it is for a spec, with the sizes and the dtype that code of the user's really has.

    A dtype that was not given is the one that its weights are made in. Raises InputError for a length that it cannot
    be given.
    """
    if not isinstance(model, OwnModel):
        return workload
    found = own_work(model, workload, series, wanted="size", keep_dtype=not is_dtype_given, timeout_s=timeout_s)
    if is_seq_len_given and not found.takes_seq_len and found.seq_len != workload.seq_len:
        raise InputError(
            f"{model.name} brings inputs of its own: --seq {workload.seq_len} has no meaning",
            hint="give the factory a parameter `seq_len`, and make the inputs of that length",
        )
    return msgspec.structs.replace(workload, batch=found.batch, seq_len=found.seq_len, dtype=found.dtype)


def check_any_batch(own: OwnModel, found: OwnWork) -> None:
    """Raise InputError for a factory whose inputs have one size."""
    if not found.takes_batch:
        raise InputError(
            f"{own.name} brings inputs of batch {found.batch}: no other batch can be tried",
            hint="give the factory a parameter `batch`, and make the inputs of that size",
        )


def own_memory(own: OwnModel, workload: Workload, series: ProbeSeries, *, timeout_s: float = 600.0) -> OwnWork:
    """What gives the predicted peak of any batch (`peak_bytes`), from runs without data, or why nothing does.

    Raises InputError for a factory whose inputs have one size.
    """
    first = msgspec.structs.replace(workload, batch=1)
    found = own_work(own, first, series, wanted="lines", timeout_s=timeout_s)
    check_any_batch(own, found)
    return found
