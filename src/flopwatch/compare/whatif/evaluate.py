"""FLOPs, memory, the batch that fits and the roofline's time of a choice, from coefficients alone.

The page of a report does the same in report/templates/whatif.js, figure by figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from flopwatch.compare.whatif.coefficients import Coefficients, kernel_of, memory_key, ops_key
from flopwatch.compare.whatif.memory import LEAST_SEQ_LEN, PARTS, Moments
from flopwatch.compare.whatif.polynomial import Polynomial, value_at
from flopwatch.compare.whatif.work import OpForm
from flopwatch.errors import InputError
from flopwatch.workload import DTYPE_BYTES, Attention, DType, Optimizer, Phase, Recompute

MOST_BATCH: Final = 1 << 24
"""A batch that nobody runs: the search for the largest ends there."""

Reason = Literal["too_short", "uneven_rows", "not_estimated", "no_limit", "no_peak", "no_bandwidth", "no_roofline"]


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What the reader of a page chooses of a model's step."""

    batch: int
    seq_len: int
    phase: Phase
    dtype: DType
    optimizer: Optimizer = "adamw"
    recompute: Recompute = "none"
    attention: Attention = "auto"

    @property
    def n_queries(self) -> int:
        """Positions computed for each sequence."""
        return 1 if self.phase == "decode" else self.seq_len

    @property
    def again(self) -> Recompute:
        """What is computed again; outside of training nothing."""
        return self.recompute if self.phase == "train" else "none"


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The device of a choice: its dense peaks by dtype, and what a step may allocate there."""

    device_type: str
    flops_per_s: Mapping[str, float] = {}
    bandwidth_bytes_per_s: float | None = None
    cache_bytes: float = 0
    limit_bytes: int | None = None


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a choice. What is None has its reason in `why`, under memory, batch or time.

    `largest_batch` is a multiple of `batch_step`: the batches whose memory is known (all, but for experts).
    """

    model_flops: float
    forward_flops: float
    backward_flops: float
    again_flops: float
    flops_per_token: float
    peak_bytes: float | None
    parts: dict[str, float] | None
    margin_bytes: float | None
    largest_batch: int | None
    batch_step: int
    time_s: float | None
    tokens_per_s: float | None
    highest_mfu: float | None
    compute_bound_fraction: float | None
    why: dict[str, Reason]


def what_if(model: Coefficients, choice: Choice, target: Target) -> WhatIf:
    """The figures of a choice; raises InputError for a sequence that is longer than the model's context."""
    if choice.seq_len > model.spec.max_seq_len:
        raise InputError(
            f"seq_len={choice.seq_len} is longer than the context of {model.spec.name}, {model.spec.max_seq_len}",
            hint="choose a shorter sequence",
        )
    why: dict[str, Reason] = {}
    work = model.work[choice.phase]
    forward, backward = _value(work.forward, choice), _value(work.backward, choice)
    again = _value(work.recompute, choice) if choice.again == "full" else 0
    again += _value(work.in_kernel, choice) if choice.attention == "flash" and choice.phase == "train" else 0
    parts = _parts(model, choice, target, why)
    peak_bytes = None if parts is None else math.fsum(parts.values())
    time_s, compute_s = _time(model, choice, target, why)
    n_tokens = choice.batch * choice.n_queries
    return WhatIf(
        model_flops=forward + backward,
        forward_flops=forward,
        backward_flops=backward,
        again_flops=again,
        flops_per_token=(forward + backward) / n_tokens,
        peak_bytes=peak_bytes,
        parts=parts,
        margin_bytes=None if peak_bytes is None or target.limit_bytes is None else target.limit_bytes - peak_bytes,
        largest_batch=_largest_batch(model, choice, target, why),
        batch_step=_batch_step(_moments(model, msgspec.structs.replace(choice, batch=2), target), choice),
        time_s=time_s,
        tokens_per_s=None if time_s is None else n_tokens / time_s,
        highest_mfu=None if time_s is None else (forward + backward) / time_s / target.flops_per_s[choice.dtype],
        compute_bound_fraction=None if time_s is None or compute_s is None else compute_s / time_s,
        why=why,
    )


def _value(polynomial: Polynomial, choice: Choice) -> float:
    return value_at(polynomial, choice.batch, choice.seq_len)


# Memory.


def _moments(model: Coefficients, choice: Choice, target: Target) -> Moments | None:
    kernel = kernel_of(choice.attention, model.base)
    step = model.memory[memory_key(target.device_type, choice.phase, choice.again, kernel, choice.dtype)]
    return step.one if choice.batch == 1 else step.more


def _parts(model: Coefficients, choice: Choice, target: Target, why: dict[str, Reason]) -> dict[str, float] | None:
    """Bytes by part at the peak."""
    moments = _moments(model, choice, target)
    if moments is None:
        why["memory"] = "not_estimated"
    elif choice.seq_len < LEAST_SEQ_LEN:
        why["memory"] = "too_short"
    elif moments.rows_multiple_of and choice.batch * choice.n_queries % moments.rows_multiple_of:
        why["memory"] = "uneven_rows"
    else:
        has_adamw = choice.optimizer == "adamw"
        candidates = [*moments.step, *(moments.update if has_adamw else [])]
        amounts = [[_value(part, choice) for part in moment] for moment in candidates]
        if not has_adamw:
            for row in amounts:
                row[PARTS.index("optimizer")] = 0
        return dict(zip(PARTS, max(amounts, key=math.fsum), strict=True))
    return None


def _largest_batch(model: Coefficients, choice: Choice, target: Target, why: dict[str, Reason]) -> int | None:
    """The largest batch whose peak is known and within the limit; 0 where not even the smallest is."""
    moments = _moments(model, msgspec.structs.replace(choice, batch=2), target)
    if target.limit_bytes is None:
        why["batch"] = "no_limit"
    elif moments is None:
        why["batch"] = "not_estimated"
    elif choice.seq_len < LEAST_SEQ_LEN:
        why["batch"] = "too_short"
    else:
        return _search(model, choice, target, _batch_step(moments, choice))
    return None


def _batch_step(moments: Moments | None, choice: Choice) -> int:
    """Batches that are a multiple of this deal their rows out evenly among the experts."""
    multiple = 0 if moments is None else moments.rows_multiple_of
    return multiple // math.gcd(multiple, choice.n_queries) if multiple else 1


def _search(model: Coefficients, choice: Choice, target: Target, step: int) -> int:
    def fits(n_steps: int) -> bool:
        parts = _parts(model, msgspec.structs.replace(choice, batch=n_steps * step), target, {})
        return parts is not None and target.limit_bytes is not None and math.fsum(parts.values()) <= target.limit_bytes

    largest, too_large = 0, 1
    while too_large * step <= MOST_BATCH and fits(too_large):
        largest, too_large = too_large, 2 * too_large
    if too_large * step > MOST_BATCH:
        return largest * step
    while too_large - largest > 1:
        middle = (largest + too_large) // 2
        if fits(middle):
            largest = middle
        else:
            too_large = middle
    return largest * step


# Time.


def _time(
    model: Coefficients, choice: Choice, target: Target, why: dict[str, Reason]
) -> tuple[float | None, float | None]:
    """Seconds of a step at best, and those of them that compute binds."""
    forms = model.ops.get(ops_key(choice.phase, kernel_of(choice.attention, model.base)))
    if forms is None:
        why["time"] = "no_roofline"
    elif choice.dtype not in target.flops_per_s:
        why["time"] = "no_peak"
    elif target.bandwidth_bytes_per_s is None:
        why["time"] = "no_bandwidth"
    else:
        window = model.spec.window
        is_within = forms.within is not None and window is not None and choice.seq_len <= window
        ops = forms.within if is_within and forms.within is not None else forms.beyond
        again = [op for op in ops.forward if op.is_layers] if choice.again == "full" else []
        times = [_op_time(op, model, choice, target) for op in (*ops.forward, *again, *ops.backward)]
        if choice.phase == "train":
            update_bytes = model.update_bytes[choice.optimizer] * DTYPE_BYTES[choice.dtype]
            times.append((update_bytes / target.bandwidth_bytes_per_s, False))
        return math.fsum(s for s, _ in times), math.fsum(s for s, is_compute in times if is_compute)
    return None, None


def _op_time(op: OpForm, model: Coefficients, choice: Choice, target: Target) -> tuple[float, bool]:
    """Seconds of an operator, and whether compute binds it."""
    assert target.bandwidth_bytes_per_s is not None
    element_bytes = DTYPE_BYTES[choice.dtype]
    warm = _value(op.warm, choice) * element_bytes
    cold = _value(op.cold, choice) * element_bytes
    moe = model.spec.moe
    if op.is_experts and moe is not None:
        asked = choice.batch * choice.n_queries * moe.experts_per_token
        cold *= min(1.0, asked / moe.n_experts)
    moved = cold if warm / op.calls <= target.cache_bytes else cold + warm
    compute_s = _value(op.flops, choice) / target.flops_per_s[choice.dtype]
    memory_s = moved / target.bandwidth_bytes_per_s
    return max(compute_s, memory_s), compute_s >= memory_s
