"""trace: run a step once with the recorder on. trace_model: the same for a module and its inputs, without data."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils._pytree import tree_map

from flopwatch.errors import FlopwatchError, InputError
from flopwatch.trace.attention import Implementation
from flopwatch.trace.formulas import formula_table
from flopwatch.trace.guard import Guard
from flopwatch.trace.modules import ModuleNames, without_compiler
from flopwatch.trace.recorder import Recorder
from flopwatch.trace.result import Trace

Phase = Literal["forward", "train"]
Tensors = Literal["auto", "meta", "fake", "real"]
_PACKAGES: Final = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
_NEEDS_VALUES: Final = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException)
_READS: Final = "the step reads a value of a tensor that has no data"
# What torch says of tensors on meta -> what that means for the step.
_WITHOUT_DATA: Final = (
    ("is not on the expected device", "the step mixes tensors on meta with others"),
    ("on meta device", "torch has an operator of the step on real devices only"),
    ("with Meta tensors", "torch has no rule for an operator of the step on tensors without data"),
    ("register_meta function", "the shape of a result depends on values that are not there"),
    ("tensor to numpy", _READS),
    (".numpy() is not supported for tensor subclasses", _READS),
)


class TraceError(FlopwatchError):
    """A step cannot run on tensors without data: it reads a value, or mixes devices (exit code 1)."""


def trace(
    step: Callable[[], Any],
    *,
    model: nn.Module | None = None,
    formulas: Mapping[Any, Callable[..., Any]] | None = None,
    attention: Implementation = "auto",
    memory_events: bool = True,
) -> Trace:
    """Everything that one call of `step` does: FLOPs and bytes by operator, module and phase, and its memory events.

    The step runs once, on its own tensors. With all of them on `meta` nothing is computed; tensors with data are
    computed with, and an optimizer in the step updates them. `model` gives module paths their root; without it the
    modules that the step calls are roots. `attention` chooses the implementation of scaled_dot_product_attention
    (`auto`: torch's choice, a fused kernel on `meta` where one fits). `formulas` maps operators to functions as
    `torch.utils.flop_counter.register_flop_formula` takes them, for this trace only.

    Compiled functions and modules run uncompiled meanwhile. Threads that the step starts are out of sight: modules
    called there are listed as uncounted, bare operators are not seen, and a note says so. Afterwards gradients,
    training flags and hooks are as before the first call of a module (of `model`: as before the trace), and whatever
    the step raised is raised.
    Raises TraceError, naming the line, where the step reads a value that a tensor without data does not have.
    """
    if model is not None:
        model = without_compiler(model)
    guard = Guard()
    names = ModuleNames(model)
    recorder = Recorder(
        names, formula_table(formulas), attention=attention, on_root=guard.keep, memory_events=memory_events
    )
    try:
        if model is not None:
            recorder.add_root(model)
        with _values_explained(), recorder.recording():
            step()
    finally:
        guard.put_back()
    return Trace(
        recorder.rows,
        names,
        memory=recorder.storages,
        notes=sorted(recorder.notes),
        sharded_flops=recorder.sharded.global_flops,
    )


def trace_model(
    model: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    phase: Phase = "forward",
    loss: Callable[[Any], torch.Tensor] | None = None,
    tensors: Tensors = "auto",
    formulas: Mapping[Any, Callable[..., Any]] | None = None,
    attention: Implementation = "auto",
    memory_events: bool = True,
) -> Trace:
    """Trace of `model(*args, **kwargs)`: a forward without gradients, or with its backward (`train`).

    Arguments may be anything: keywords, nested structures, values that are no tensors. `tensors` says what runs:
    `meta` and `fake` copies hold no data, `real` runs as it is; `auto` tries meta, then fake tensors, which keep the
    values of small constants that models read. The model itself stays where it is.

    Training needs one number to start from: `loss(output)`, the output's own `.loss`, or the sum of its tensors.
    """
    if phase not in {"forward", "train"}:
        raise InputError(f"phase={phase!r} is not one of forward, train", hint="decode and others: give trace a step")
    if not isinstance(model, nn.Module):
        raise InputError(f"{type(model).__name__} is no nn.Module", hint="give trace() a step that calls it")
    model = without_compiler(model)
    options = {"formulas": formulas, "attention": attention, "memory_events": memory_events}
    keywords = dict(kwargs or {})
    kinds: tuple[str, ...] = ("meta", "fake") if tensors == "auto" else (tensors,)
    for kind in kinds:
        try:
            with stand_ins(model, kind) as convert:
                step = _step(model, convert(tuple(args)), convert(keywords), phase, loss)
                return trace(step, model=model, **options)  # type: ignore[arg-type]
        except TraceError:
            if kind == kinds[-1]:
                raise
    raise AssertionError("the last kind returns or raises")


def _step(
    model: nn.Module, args: Any, kwargs: Any, phase: Phase, loss: Callable[[Any], torch.Tensor] | None
) -> Callable[[], None]:
    def forward() -> None:
        with torch.no_grad():
            model(*args, **kwargs)

    def train() -> None:
        output = model(*args, **kwargs)
        (_loss_of(output) if loss is None else loss(output)).backward()

    return train if phase == "train" else forward


def _loss_of(output: Any) -> torch.Tensor:
    own = getattr(output, "loss", None)  # a Hugging Face output that was given labels
    if isinstance(own, torch.Tensor):
        return own
    found: list[torch.Tensor] = []
    tree_map(lambda leaf: found.append(leaf) if isinstance(leaf, torch.Tensor) and leaf.requires_grad else None, output)
    if not found:
        raise InputError(
            "nothing in the model's output needs a gradient, so there is no backward to count",
            hint="give loss=..., or train at least one parameter",
        )
    total: torch.Tensor = sum((tensor.sum() for tensor in found[1:]), start=found[0].sum())
    return total


@contextlib.contextmanager
def stand_ins(model: nn.Module, kind: str) -> Iterator[Callable[[Any], Any]]:
    """The model's parameters and buffers replaced by tensors without data while this is entered; how to do the same."""
    if kind == "real":
        yield lambda value: value
        return
    if kind == "meta":
        convert = _converter(_to_meta)
        with _reparametrize_module(model, _state(model, convert), tie_weights=True):
            yield convert
        return
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    convert = _converter(lambda tensor: _to_fake(tensor, mode))
    state = _state(model, convert)
    with _reparametrize_module(model, state, tie_weights=True), mode:
        yield convert


def _state(model: nn.Module, convert: Callable[[Any], Any]) -> dict[str, torch.Tensor]:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, UninitializedTensorMixin):
            raise InputError(f"{name} has no shape yet (a lazy module)", hint="call the model once, then count it")
    return {name: convert(tensor) for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def _converter(one: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], Any]:
    """Replaces every tensor in a structure, equal ones by equal ones."""
    done: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def leaf(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in done:
            done[id(value)] = (value, one(value))
        return done[id(value)][1]

    return lambda structure: tree_map(leaf, structure)


def _to_meta(tensor: torch.Tensor) -> torch.Tensor:
    made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return _like(tensor, made)


def _to_fake(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    """A fake tensor on the device of the original, on the CPU for one on meta."""
    device = "cpu" if tensor.is_meta else tensor.device
    if device == "cpu" or tensor.device.type == "cpu":
        with mode:
            return _like(tensor, torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu"))
    return mode.from_tensor(tensor)


def _like(tensor: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(made, requires_grad=tensor.requires_grad)
    return made.requires_grad_(tensor.requires_grad)


@contextlib.contextmanager
def _values_explained() -> Iterator[None]:
    """Turn torch's words for what tensors without data cannot do into a TraceError that names the user's line."""
    try:
        yield
    except _NEEDS_VALUES as error:
        raise _explained(error, _READS) from error
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        text = str(error)
        if "meta tensor" in text and ("item()" in text or "no data" in text or "Cannot copy" in text):
            raise _explained(error, _READS) from error
        for phrase, what in _WITHOUT_DATA:
            if phrase in text and ("meta" in text.lower() or phrase.startswith(".numpy")):
                raise _explained(error, what) from error
        raise


def _explained(error: BaseException, what: str) -> TraceError:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_PACKAGES)]
    where = f"{own[-1].filename}, line {own[-1].lineno}: {own[-1].line}" if own else "inside torch"
    return TraceError(
        f"{what} ({where})",
        hint="trace it on a small real model (tensors='real'), or measure it with bench",
    )
