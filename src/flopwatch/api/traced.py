"""Counting by trace: the real module runs once without data, and every operator is written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from flopwatch.compare.reconcile import Reconciliation, reconcile
from flopwatch.cost.differences import explain_gap
from flopwatch.cost.flops import step_flops
from flopwatch.errors import InputError
from flopwatch.model.load import config_file, is_factory, load_spec
from flopwatch.model.spec import ModelSpec
from flopwatch.record import CountResult, FlopParts, ParamParts
from flopwatch.workload import Workload

if TYPE_CHECKING:
    from torch import nn

    from flopwatch.trace.result import Trace

Formulas = Mapping[Any, Callable[..., Any]]


def count_by_trace(
    model: str | ModelSpec,
    workload: Workload,
    *,
    changes: Mapping[str, str] | None = None,
    formulas: Formulas | None = None,
    trust_remote_code: bool = False,
    reconcile_with_spec: bool = False,
) -> CountResult:
    """Parameters and FLOPs of the real module, by module and operator, from one run on tensors without data.

    A preset, a spec file or a ModelSpec is traced as the reference network; a config.json (or its folder) as the model
    that transformers builds; `package.module:factory` as what the factory returns. With `reconcile_with_spec` the
    closed form stands beside the trace, term by term, in `details["reconcile"]`.
    """
    if isinstance(model, str) and (is_factory(model) or config_file(model)):
        result, trace = _of_source(model, workload, changes, formulas, trust_remote_code=trust_remote_code)
        spec = None if is_factory(model) else _spec_or_none(model, changes, needed=reconcile_with_spec)
    else:
        spec = model if isinstance(model, ModelSpec) else load_spec(model, changes)
        result, trace = _of_reference(spec, workload, formulas)
    if not reconcile_with_spec:
        return result
    if spec is None:
        raise InputError(f"{model} has no closed form to reconcile with", hint="leave --reconcile out")
    return msgspec.structs.replace(result, details=result.details | {"reconcile": _reconciled(spec, workload, trace)})


def count_module(
    module: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    phase: str = "forward",
    name: str | None = None,
    formulas: Formulas | None = None,
) -> CountResult:
    """Parameters and FLOPs of one call of a user's module (`train`: with its backward), by module and operator.

    Batch and length are read off the first tensor: [batch, length] of whole numbers are tokens, anything else is a
    batch of samples, counted as one token each. The module is not changed.
    """
    from flopwatch.reference.source import sizes_of
    from flopwatch.trace.api import trace_model

    if phase not in {"forward", "train"}:
        raise InputError(f"phase={phase} of a module of yours", hint="use forward or train, or fw.trace(step)")
    trace = trace_model(module, args, kwargs, phase="train" if phase == "train" else "forward", formulas=formulas)
    batch, seq_len, _ = sizes_of([*args, *(kwargs or {}).values()])
    work = Workload(batch=batch, seq_len=seq_len, phase="train" if phase == "train" else "forward")
    return _result(name or type(module).__name__, module, trace, work)


def _of_reference(spec: ModelSpec, workload: Workload, formulas: Formulas | None) -> tuple[CountResult, Trace]:
    from flopwatch.reference.model import build_model
    from flopwatch.reference.step import make_step
    from flopwatch.trace.api import trace

    spec.check_seq_len(workload.seq_len)
    module = build_model(spec, ops=workload.ops, recompute=workload.recompute, device="meta")
    made = trace(
        make_step(module, workload),
        model=module,
        formulas=formulas,
        attention="math" if workload.ops == "elementary" else workload.attention,
        memory_events=False,
    )
    return _result(spec.name, module, made, workload), made


def _of_source(
    name: str,
    workload: Workload,
    changes: Mapping[str, str] | None,
    formulas: Formulas | None,
    *,
    trust_remote_code: bool,
) -> tuple[CountResult, Trace]:
    from flopwatch.reference.source import load_factory, load_transformers
    from flopwatch.trace.api import trace_model

    if workload.phase not in {"forward", "train"} or workload.recompute != "none":
        raise InputError(
            f"phase={workload.phase} with recompute={workload.recompute} of a model that is not ours",
            hint="trace its forward or train; for other steps use fw.trace(step)",
        )
    if is_factory(name):
        source = load_factory(name, workload, changes)
    elif changes:
        raise InputError(f"--set cannot change what transformers builds from {name}", hint="change its config.json")
    else:
        source = load_transformers(name, workload, trust_remote_code=trust_remote_code)
    try:
        trace = trace_model(
            source.module,
            source.args,
            source.kwargs,
            phase="train" if workload.is_train else "forward",
            attention=workload.attention,
            formulas=formulas,
            memory_events=False,
        )
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        first = str(error).partition("\n")[0]
        if not is_factory(name):
            raise InputError(
                f"what transformers builds from {name} does not run: {first}", hint="check its sizes in the config.json"
            ) from error
        if source.has_inputs:  # the user's own code: their traceback says where
            raise
        raise InputError(
            f"{name} brings no inputs, and does not run on token ids: {first}", hint="return (module, inputs)"
        ) from error
    batch, seq_len, _ = source.sizes
    work = msgspec.structs.replace(workload, batch=batch, seq_len=seq_len)
    return _result(source.name, source.module, trace, work), trace


def _result(name: str, module: nn.Module, trace: Trace, workload: Workload) -> CountResult:
    sums = trace.sums
    parts: dict[str, int] = {}
    for path, row in trace.modules.items():
        if row.model_flops:
            kind = _kind(path)
            parts[kind] = parts.get(kind, 0) + row.model_flops
    return CountResult(
        model=name,
        batch=workload.batch,
        seq_len=workload.seq_len,
        phase=workload.phase,
        params=_params(module),
        flops=FlopParts(
            forward=sums.forward,
            backward=sums.backward,
            recompute=sums.recompute,
            in_kernel=sums.in_kernel,
            total=trace.total,
            per_token=trace.total / workload.n_tokens,
            parts=parts,
        ),
        convention="matmul",
        source="trace",
        uncounted=trace.uncounted,
        modules={path: _flops_row(row.to_dict()) for path, row in trace.by_module().items() if row.hardware_flops},
        operators=[_operator_row(op, row.to_dict()) for op, row in trace.by_operator().items() if row.hardware_flops],
        details={
            "coverage": trace.coverage,
            "vector_ops": trace.vector_ops,
            "moved_bytes": trace.bytes,
            "arithmetic_intensity": trace.arithmetic_intensity,
            "notes": list(trace.notes),
        },
    )


def _flops_row(row: Mapping[str, Any]) -> dict[str, int]:
    return {phase: row[phase] for phase in ("forward", "backward", "recompute", "in_kernel", "optimizer") if row[phase]}


def _operator_row(op: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {"op": op, "calls": row["calls"], **_flops_row(row)}


def _params(module: nn.Module) -> ParamParts:
    parts: dict[str, int] = {}
    trainable = 0
    for path, parameter in module.named_parameters():
        kind = _kind(path.rpartition(".")[0] or path)
        parts[kind] = parts.get(kind, 0) + parameter.numel()
        trainable += parameter.numel() if parameter.requires_grad else 0
    return ParamParts(total=sum(parts.values()), trainable=trainable, parts=parts)


def _kind(path: str) -> str:
    """A module's path without the numbers of repeated layers."""
    return ".".join(piece for piece in path.split(".") if not piece.isdecimal()) or path


def _spec_or_none(name: str, changes: Mapping[str, str] | None, *, needed: bool) -> ModelSpec | None:
    return load_spec(name, changes) if needed else None


def _reconciled(spec: ModelSpec, workload: Workload, trace: Trace) -> dict[str, Any]:
    """Closed form against trace by term, and the names of what explains a difference in the forward pass."""
    if trace.sums.in_kernel and workload.attention == "auto":
        workload = msgspec.structs.replace(workload, attention="flash")
    rows: Reconciliation = reconcile(
        step_flops(spec, workload), {path: row.to_dict() for path, row in trace.modules.items()}
    )
    closed, traced = rows.total("forward")
    named = explain_gap(spec, workload, traced - closed) if traced != closed else ()
    return {
        **rows.to_dict(),
        "explained_by": None if named is None else [f"{d.name}: {d.flops:+,} FLOPs, {d.reason}" for d in named],
    }
