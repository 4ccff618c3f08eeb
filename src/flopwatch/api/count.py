"""fw.count: how much work a model is, in closed form."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flopwatch.cost.convention import Convention, count_flops, find_convention
from flopwatch.cost.flops import StepFlops
from flopwatch.errors import InputError
from flopwatch.model.load import load_spec
from flopwatch.model.own import Model
from flopwatch.model.params import count_active_params, count_params
from flopwatch.model.spec import ModelSpec
from flopwatch.record import CountResult, FlopParts, ParamParts
from flopwatch.workload import Workload

if TYPE_CHECKING:
    from torch import nn

DEFAULT_SEQ_LEN = 1024


def resolve_spec(model: str | os.PathLike[str] | ModelSpec, changes: Mapping[str, str] | None = None) -> ModelSpec:
    """The spec that a user means: itself, or what `load_spec` finds under that name."""
    if isinstance(model, ModelSpec):
        return model
    if isinstance(model, os.PathLike):
        model = os.fspath(model)
    if not isinstance(model, str):
        raise InputError(
            f"a {type(model).__name__} is no model with a closed form",
            hint="give a ModelSpec, a name or a path; fw.trace(step) and fw.count(module) count an nn.Module",
        )
    return load_spec(model, changes)


def default_seq_len(model: Model) -> int:
    """The sequence length when none is given: 1024 tokens, or the whole context where that is shorter."""
    return min(DEFAULT_SEQ_LEN, model.max_seq_len) if isinstance(model, ModelSpec) else DEFAULT_SEQ_LEN


def count(
    model: str | ModelSpec | nn.Module,
    workload: Workload | None = None,
    *,
    convention: str | Convention = "matmul",
    changes: Mapping[str, str] | None = None,
    inputs: tuple[Any, ...] | Mapping[str, Any] | None = None,
) -> CountResult:
    """Parameters and FLOPs of one step of `workload` (batch 1, forward, 1024 tokens when left out), by part.

    For a spec or a name: exact integers under the named convention, from the closed form, without torch. For an
    nn.Module: a trace of `model(*inputs)` (or `model(**inputs)`) without data, its phase that of the workload. Raises
    SpecError for a sequence longer than the context, UnknownModelError and InputError for names that are not known.
    """
    if not isinstance(model, str | ModelSpec):
        return _of_module(model, workload, inputs, convention)
    if inputs is not None:
        raise InputError("inputs are for an nn.Module", hint="give a name or a spec a workload")
    spec = resolve_spec(model, changes)
    work = workload or Workload(seq_len=default_seq_len(spec))
    spec.check_seq_len(work.seq_len)
    rule = find_convention(convention) if isinstance(convention, str) else convention
    return CountResult(
        model=spec.name,
        batch=work.batch,
        seq_len=work.seq_len,
        phase=work.phase,
        params=_params(spec),
        flops=_flops(count_flops(spec, work, rule), work),
        convention=rule.name,
        source="closed-form",
    )


def _of_module(module: nn.Module, workload: Workload | None, inputs: Any, convention: str | Convention) -> CountResult:
    from flopwatch.api.traced import count_module

    if convention != "matmul":
        raise InputError("a trace counts what ran, under the convention matmul", hint="leave convention out")
    if inputs is None:
        raise InputError(f"what is {type(module).__name__} called with?", hint="give inputs=(tensor, ...) or a dict")
    is_named = isinstance(inputs, Mapping)
    return count_module(
        module,
        () if is_named else tuple(inputs),
        inputs if is_named else None,
        phase="forward" if workload is None else workload.phase,
    )


def _params(spec: ModelSpec) -> ParamParts:
    parts = count_params(spec)
    return ParamParts(
        total=parts.total,
        trainable=parts.total,
        parts=parts.to_dict(),
        active=count_active_params(spec) if spec.moe is not None else None,
    )


def _flops(step: StepFlops, work: Workload) -> FlopParts:
    return FlopParts(
        forward=step.forward.total,
        backward=step.backward.total,
        recompute=step.recompute.total,
        in_kernel=step.in_kernel.total,
        total=step.model_flops,
        per_token=step.model_flops / work.n_tokens,
        parts=(step.forward + step.backward).to_dict(),
    )
