"""What a probe says of a model that the user's code makes: its work and its memory, from runs without data.

This runs in a child: the module, and whatever importing it does, never enter the process that asks.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
import torch

from flopwatch.api.memory import memory_result
from flopwatch.api.own_hidden import MeasuredTensors
from flopwatch.cost.eager.tape import Tape
from flopwatch.cost.memory import MemoryEstimate
from flopwatch.errors import FlopwatchError, InputError
from flopwatch.model.own import OwnModel
from flopwatch.reference.own import LossKind, OwnStep, made_dtype, placed
from flopwatch.reference.source import Source, find_factory, load_factory
from flopwatch.trace.api import TraceError, stand_ins, trace
from flopwatch.trace.memory_view import HiddenTensors
from flopwatch.trace.replay import AnyBatch, BatchDependentError, n_steps_of
from flopwatch.trace.result import Trace
from flopwatch.trace.timeline import tape_of
from flopwatch.workload import Workload

_INSIDE: Final = "what kernels allocate inside is measured: each distinct call run once, alone, on this machine"
_MAKING: Final = "making the module, before its weights are converted, takes more memory than its steps do"
_NO_LINES: Final = "what kernels allocate inside is no line in the batch, and is not in the predicted memory"
_CHECKED: Final = 7  # a batch beside those that the lines go through
# What kernels take inside is no exact line, and at the smallest batches another algorithm's.
_INSIDE_RUNS: Final = (8, 12)
_INSIDE_CHECKED: Final = 16
_NEAR_SHARE: Final = 0.005

_Inside = Callable[[], contextlib.AbstractContextManager[object]]
"""What a trace is run in, to see what operators allocate inside."""


class _NotWithoutDataError(FlopwatchError):
    """The user's code cannot make its module on tensors without data."""


def own_work(arguments: dict[str, Any]) -> dict[str, Any]:
    """The fields of `api.own.OwnWork` for `own` at `workload`, as far as they are in what is `wanted` (see there).

    `keep_dtype`: the weights stay in the dtype that they are made in, whatever the workload says. Raises InputError
    for a factory that gives no module, or inputs that are not of the size that was asked for.
    """
    own, work, source = _asked(arguments)
    facts: dict[str, Any] = {
        "takes_batch": _takes_batch(source),
        "takes_seq_len": not source.has_inputs or "seq_len" in source.takes,
        "batch": work.batch,
        "seq_len": work.seq_len,
        "unit": "tokens" if source.sizes.is_tokens or "seq_len" in source.takes else "samples",
        "dtype": work.dtype,
        "n_params": sum(parameter.numel() for parameter in source.module.parameters()),
    }
    memory = _Memory(own, work, source, is_inside=arguments["is_inside"])
    if arguments["wanted"] == "work":
        flops = _flops(own, work, source.module)
        peak = _without_failing(memory.parts)
        return facts | flops | peak | {"notes": [*flops["notes"], *memory.notes]}
    if arguments["wanted"] == "lines" and facts["takes_batch"]:
        lines = _without_failing(memory.lines)
        return facts | lines | {"notes": list(memory.notes)}
    return facts


def _flops(own: OwnModel, workload: Workload, module: torch.nn.Module) -> dict[str, Any]:
    """FLOPs by dtype of one step, what was not counted, which loss was taken, and what may run in tf32."""
    kinds = ("meta", "fake", "real") if workload.precision == "pure" else ("fake", "real")  # autocast passes meta by
    made, loss_kind = _traced(own, workload, n_steps=1, kinds=kinds)
    by_dtype = {dtype: row for dtype, row in made.by_dtype().items() if row.model_flops}
    return {
        "loss": loss_kind,
        "model_flops": {dtype: row.model_flops for dtype, row in by_dtype.items()},
        "hardware_flops": {dtype: row.hardware_flops - row.optimizer for dtype, row in by_dtype.items()},
        "uncounted": [msgspec.to_builtins(entry) for entry in made.uncounted],
        "notes": list(made.notes),
        "lets_cudnn_use_tf32": _allows_tf32() and _uses_cudnn(made, module),
    }


def _allows_tf32() -> bool:
    """Whether cuDNN may run fp32 in tf32, once the user's code has set what it sets."""
    try:
        return torch.backends.cudnn.allow_tf32
    except RuntimeError:  # set apart for convolutions and for recurrent layers
        return True


def _uses_cudnn(made: Trace, module: torch.nn.Module) -> bool:
    """Whether the step has fp32 convolutions or recurrent layers, which cuDNN computes where there is one."""
    convolves = any("convolution" in op and dtype == "fp32" for op, _, dtype, *_ in made.distinct())
    recurs = (one for one in module.modules() if isinstance(one, torch.nn.RNNBase))
    return convolves or any(next(one.parameters()).dtype == torch.float32 for one in recurs)


def own_operators(arguments: dict[str, Any]) -> dict[str, Any]:
    """The fields of `api.own.OwnOperators`: every operator of one step of `own` at `workload`, equal ones together.

    Of two steps the second: the first makes the optimizer's state, which no later one does.
    """
    own, work, _ = _asked(arguments)
    one, _ = _traced(own, work, n_steps=1, kinds=("meta", "fake", "real"))
    calls = one.distinct()
    if n_steps_of(work) > 1:
        calls = _traced(own, work, n_steps=2, kinds=("meta", "fake", "real"))[0].distinct() - calls
    return {
        "batch": work.batch,
        "seq_len": work.seq_len,
        "dtype": work.dtype,
        "model_flops": sum(row.model_flops for row in one.by_dtype().values()),
        "operators": [[*key, n] for key, n in calls.items()],
        "uncounted": [msgspec.to_builtins(entry) for entry in one.uncounted],
        "notes": list(one.notes),
    }


def _asked(arguments: dict[str, Any]) -> tuple[OwnModel, Workload, Source]:
    """The model that a job is asked about, the workload that really runs, and what its factory made first."""
    own = msgspec.convert(arguments["own"], OwnModel)
    asked = msgspec.convert(arguments["workload"], Workload)
    find_factory(own.factory)  # imported before anything is made on another device
    source = _first_source(own, asked)
    return own, _settled(source, asked, keep_dtype=arguments["keep_dtype"]), source


def _first_source(own: OwnModel, workload: Workload) -> Source:
    with contextlib.suppress(_NotWithoutDataError):
        return _without_data(own, workload)
    return load_factory(own.factory, workload, own.changes)


def _without_data(own: OwnModel, workload: Workload) -> Source:
    try:
        with torch.device("meta"):
            return load_factory(own.factory, workload, own.changes)
    except InputError:
        raise
    except Exception as error:  # what stops the user's code without data is known only to that code
        raise _NotWithoutDataError(str(error)) from error


def _takes_batch(source: Source) -> bool:
    return not source.has_inputs or "batch" in source.takes


def _settled(source: Source, asked: Workload, *, keep_dtype: bool) -> Workload:
    """The workload that really runs: batch and length of the inputs that were made, and the dtype of the weights."""
    sizes = source.sizes
    if _takes_batch(source) and sizes.batch != asked.batch:
        raise InputError(
            f"{source.name} made inputs of {sizes.batch} rows for a batch of {asked.batch}",
            hint="the first dimension of its first input must be the batch",
        )
    if asked.batch not in {1, sizes.batch}:
        raise InputError(
            f"{source.name} brings inputs of batch {sizes.batch}, so that batch {asked.batch} cannot be made",
            hint="give the factory a parameter `batch`, and make the inputs of that size",
        )
    seq_len = sizes.length
    if "seq_len" in source.takes:
        if sizes.is_tokens and sizes.length != asked.seq_len:
            raise InputError(
                f"{source.name} made inputs of {sizes.length} tokens for a seq_len of {asked.seq_len}",
                hint="its first input must be [batch, seq_len]",
            )
        seq_len = asked.seq_len
    is_kept = keep_dtype and asked.precision == "pure"
    dtype = made_dtype(source) if is_kept else asked.dtype
    fields = asked.to_dict() | {"batch": sizes.batch, "seq_len": seq_len, "dtype": dtype}
    return msgspec.convert(fields, Workload)


def _traced(
    own: OwnModel, workload: Workload, *, n_steps: int, kinds: Sequence[str], inside: _Inside | None = None
) -> tuple[Trace, LossKind | None]:
    """The trace of `n_steps` steps on the cheapest tensors that it runs on, and which loss was taken.

    Whatever stops an attempt without data, a later one shows whether it is the code's own fault.
    """
    failed: Exception | None = None
    for source, kind in _attempts(own, workload, kinds):
        try:
            return _trace(source, workload, kind, n_steps=n_steps, inside=inside)
        except Exception as error:  # noqa: BLE001 - the user's code: it is raised when nothing else is left to try
            failed = error
    assert failed is not None
    raise failed


def _attempts(own: OwnModel, workload: Workload, kinds: Sequence[str]) -> Iterator[tuple[Source, str]]:
    """A source and the tensors to run it on: made without data where its code allows that, then as it is."""
    with contextlib.suppress(_NotWithoutDataError):
        empty = placed(_without_data(own, workload), workload)
        yield from ((empty, kind) for kind in ("meta", "fake") if kind in kinds)
    full = placed(load_factory(own.factory, workload, own.changes), workload)
    yield from ((full, kind) for kind in ("fake", "real") if kind in kinds)


def _trace(
    source: Source, workload: Workload, kind: str, *, n_steps: int, inside: _Inside | None
) -> tuple[Trace, LossKind | None]:
    with stand_ins(source.module, kind) as convert:
        args, kwargs = convert((tuple(source.args), dict(source.kwargs)))
        step = OwnStep(dataclasses.replace(source, args=args, kwargs=kwargs), workload)

        def steps() -> None:
            with contextlib.nullcontext() if inside is None else inside():
                for _ in range(n_steps):
                    step()

        made = trace(steps, model=source.module, attention=workload.attention, memory_events=inside is not None)
    return made, step.loss_kind


def _without_failing(predict: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a prediction says, or why there is none."""
    try:
        return predict()
    except BatchDependentError as error:
        return {"no_prediction": error.message}
    except Exception as error:  # noqa: BLE001 - the user's code, which may do without a prediction
        lines = str(error).splitlines() or [type(error).__name__]
        return {"no_prediction": f"its step does not run without data ({lines[0][:200]})"}


class _Memory:
    """The allocations of a step, and what is to be said of them (`notes`).

    With `is_inside` they have what operators allocate inside, too, for which each of them is run once.
    """

    def __init__(self, own: OwnModel, workload: Workload, source: Source, *, is_inside: bool) -> None:
        self._own = own
        self._workload = workload
        self._is_inside = is_inside
        self._is_cut_short = False
        self._tapes: dict[int, Tape] = {}
        self._takes_batch = _takes_batch(source)
        self._made_bytes = sum(one.numel() * one.element_size() for one in source.module.state_dict().values())
        self.notes: dict[str, None] = {}

    def tape(self, batch: int | None = None) -> Tape:
        """Every allocation and release of the steps that show the peak, at this batch or another."""
        work = self._workload if batch is None else msgspec.structs.replace(self._workload, batch=batch)
        measured = MeasuredTensors()
        made, _ = _traced(
            self._own,
            work,
            n_steps=n_steps_of(work),
            kinds=("fake",),
            inside=measured.inside if self._is_inside else HiddenTensors,
        )
        said = measured.notes() if self._is_inside else made.notes
        self.notes |= dict.fromkeys(said)
        self._is_cut_short |= measured.is_cut_short
        tape = tape_of(made)
        if self._made_bytes > tape.peak().n_bytes:  # it is converted afterwards
            self.notes[_MAKING] = None
        if self._is_inside:
            measured.name_makers(tape)
        self._tapes[work.batch] = tape
        return tape

    def tape_here(self) -> Tape:
        """The tape at this batch: where its operators are too large to be tried, from lines through small batches."""
        tape, said = self.tape(), self.notes
        if not self._is_cut_short or not self._takes_batch or self._workload.batch <= _INSIDE_CHECKED:
            return tape
        self.notes, self._is_cut_short = {}, False
        any_batch = self._inside_lines()
        if any_batch is None or self._is_cut_short:
            self.notes = said
            return tape
        tape = self._tapes[_INSIDE_RUNS[0]]
        for block, n_bytes in zip(tape.blocks, any_batch.events_at(self._workload.batch)[1], strict=True):
            block.n_bytes = n_bytes
        return tape

    def _inside_lines(self) -> AnyBatch | None:
        """Lines with what kernels take inside; None where they are none."""
        with contextlib.suppress(BatchDependentError):
            any_batch = AnyBatch(self.tape, runs=_INSIDE_RUNS)
            any_batch.check(_INSIDE_CHECKED, share=_NEAR_SHARE)
            return any_batch
        return None

    def parts(self) -> dict[str, Any]:
        """The parts of the peak at this batch."""
        parts = self.tape_here().peak().parts
        return {"predicted_parts": {name: n_bytes for name, n_bytes in parts.items() if n_bytes}}

    def lines(self) -> dict[str, Any]:
        """The peak at batch 1, and the lines whose highest is the peak at any other."""
        if self._is_inside:
            inside = self._inside_lines()
            if inside is not None:
                return self._lines(inside)
            self._is_inside = False
            self.notes = {_NO_LINES: None}
        any_batch = AnyBatch(self.tape)
        any_batch.check(_CHECKED)
        return self._lines(any_batch)

    def _lines(self, any_batch: AnyBatch) -> dict[str, Any]:
        return {"first_peak_bytes": any_batch.peak_bytes(1), "peak_lines": peak_lines(any_batch)}


def own_memory(arguments: dict[str, Any]) -> dict[str, Any]:
    """A MemoryResult, as plain data, of the user's step at `workload`: from a run of it without data.

    Raises FlopwatchError for code that does not run without data.
    """
    own, work, source = _asked(arguments)
    memory = _Memory(own, work, source, is_inside=arguments["is_inside"])
    try:
        tape = memory.tape_here()
    except TraceError as error:
        raise FlopwatchError(error.message, hint="`flopwatch fit` and `bench` measure what it takes") from error
    peak = tape.peak()
    assumptions = (
        f"{n_steps_of(work)} steps of your own code traced on tensors without data, operators as a CPU runs them",
        "gradients that meet are added into a new tensor, as a dispatch mode sees them (a real run adds in place)",
        *([_INSIDE] if arguments["is_inside"] else []),
    )
    estimate = MemoryEstimate(peak_bytes=peak.n_bytes, parts=peak.parts, assumptions=assumptions, peak=peak)
    found: dict[str, Any] = memory_result(own.name, work, estimate, tape, source="trace").to_dict()
    found["details"]["notes"] = list(memory.notes)
    return found


def peak_lines(any_batch: AnyBatch) -> list[list[int]]:
    """Pairs [a, b]: the peak at a batch from 2 on is the highest a + b * batch."""
    events, at_two = any_batch.events_at(2)
    at_three = any_batch.events_at(3)[1]
    highest: dict[int, int] = {}  # bytes a sequence -> the most bytes that are there beside them
    alive_a = alive_b = 0
    for event in events:
        number, sign = (event, 1) if event >= 0 else (~event, -1)
        b = at_three[number] - at_two[number]
        alive_a += sign * (at_two[number] - 2 * b)
        alive_b += sign * b
        highest[alive_b] = max(alive_a, highest.get(alive_b, alive_a))
    kept: list[list[int]] = []
    for b, a in sorted(highest.items(), reverse=True):
        if not kept or a > kept[-1][0]:  # else a line that grows faster lies above it at every batch
            kept.append([a, b])
    return kept
