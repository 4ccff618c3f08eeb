"""The coefficients of a model: all that a page needs to work out FLOPs, memory and time for what its reader chooses."""

from __future__ import annotations

import functools
from typing import Final, get_args

import msgspec

from flopwatch.compare.whatif.memory import Moments, moments_of
from flopwatch.compare.whatif.polynomial import NotPolynomialError
from flopwatch.compare.whatif.work import StepOps, StepWork, step_forms, step_work, update_bytes
from flopwatch.errors import SpecError
from flopwatch.model.params import count_params
from flopwatch.model.spec import ModelSpec
from flopwatch.workload import Attention, DType, Optimizer, Phase, Recompute, Workload

PHASES: Final[tuple[Phase, ...]] = get_args(Phase)
OPTIMIZERS: Final[tuple[Optimizer, ...]] = get_args(Optimizer)
DTYPES: Final[tuple[DType, ...]] = ("fp32", "bf16", "fp16")
_MEMORY_AS: Final[dict[str, DType]] = {"fp32": "fp32", "bf16": "bf16", "fp16": "bf16"}  # fp16 takes what bf16 takes


class StepMoments(msgspec.Struct, frozen=True, kw_only=True):
    """The moments of a step at batch 1, and at every larger one; `why_not` where they are not known."""

    one: Moments | None = None
    more: Moments | None = None
    why_not: str | None = None


class StepForms(msgspec.Struct, frozen=True, kw_only=True):
    """The operators of a step for sequences within the window (None: there is none) and for all others."""

    within: StepOps | None
    beyond: StepOps


class Coefficients(msgspec.Struct, frozen=True, kw_only=True):
    """One model's closed forms in batch and sequence length.

    `base` gives what is not chosen: ops, precision, loss, adamw. `work` is keyed by phase, `ops` by `ops_key`,
    `memory` by `memory_key`. `why_no_ops` says why there is no roofline.
    """

    spec: ModelSpec
    base: Workload
    n_params: int
    work: dict[str, StepWork]
    ops: dict[str, StepForms]
    why_no_ops: str | None
    update_bytes: dict[str, int]
    memory: dict[str, StepMoments]


def kernel_of(attention: Attention, base: Workload) -> str:
    """Whether the scores are written out (`math`) or not (`fused`)."""
    return "math" if attention == "math" or base.ops == "elementary" else "fused"


def ops_key(phase: Phase, kernel: str) -> str:
    """Which operators a choice has."""
    return f"{phase} {kernel}"


def memory_key(device_type: str, phase: Phase, recompute: Recompute, kernel: str, dtype: str) -> str:
    """Which moments a choice has."""
    return f"{device_type} {phase} {recompute} {kernel} {_MEMORY_AS[dtype]}"


@functools.lru_cache(maxsize=32)
def coefficients_of(spec: ModelSpec, base: Workload, device_types: tuple[str, ...]) -> Coefficients:
    """The coefficients of a model, memory on each of `device_types`; `base` gives ops, precision, loss and adamw."""
    plain = Workload(ops=base.ops, precision=base.precision, loss=base.loss)
    in_memory = msgspec.structs.replace(plain, adamw=base.adamw)
    kernels = ("fused", "math") if plain.ops == "fused" else ("math",)
    ops, why_no_ops = _ops(spec, plain, kernels)
    return Coefficients(
        spec=spec,
        base=plain,
        n_params=count_params(spec).total,
        work={phase: step_work(spec, msgspec.structs.replace(plain, phase=phase)) for phase in PHASES},
        ops=ops,
        why_no_ops=why_no_ops,
        update_bytes={optimizer: update_bytes(spec, optimizer) for optimizer in OPTIMIZERS} if ops else {},
        memory=_memory(spec, in_memory, kernels, device_types),
    )


def _ops(spec: ModelSpec, base: Workload, kernels: tuple[str, ...]) -> tuple[dict[str, StepForms], str | None]:
    found: dict[str, StepForms] = {}
    why_not = None
    for phase in PHASES:
        for kernel in kernels:
            work = msgspec.structs.replace(base, phase=phase, attention="math" if kernel == "math" else "auto")
            try:
                within = step_forms(spec, work, is_within_window=True) if spec.n_windowed_layers else None
                beyond = step_forms(spec, work, is_within_window=False)
            except SpecError as error:
                why_not = error.message
                continue
            found[ops_key(phase, kernel)] = StepForms(within=within, beyond=beyond)
    return found, why_not


def _memory(
    spec: ModelSpec, base: Workload, kernels: tuple[str, ...], device_types: tuple[str, ...]
) -> dict[str, StepMoments]:
    steps: list[tuple[Phase, Recompute]] = [(phase, "none") for phase in PHASES]
    steps.append(("train", "full"))
    found = {}
    for device_type in device_types:
        for phase, recompute in steps:
            for kernel in kernels:
                for dtype in dict.fromkeys(_MEMORY_AS.values()):
                    work = msgspec.structs.replace(
                        base,
                        phase=phase,
                        recompute=recompute,
                        attention="math" if kernel == "math" else "auto",
                        dtype=dtype,
                    )
                    key = memory_key(device_type, phase, recompute, kernel, dtype)
                    found[key] = _step_moments(spec, work, device_type)
    return found


def _step_moments(spec: ModelSpec, workload: Workload, device_type: str) -> StepMoments:
    try:
        return StepMoments(
            one=moments_of(spec, workload, device_type=device_type, is_batch_one=True),
            more=moments_of(spec, workload, device_type=device_type, is_batch_one=False),
        )
    except (SpecError, NotPolynomialError) as error:
        return StepMoments(why_not=error.message)
