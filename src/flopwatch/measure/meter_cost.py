"""StepCost: FLOPs of a training step from what a loop knows of it: its tokens, or the length of every sequence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from math import isfinite
from numbers import Integral, Real
from typing import Final

from flopwatch.cost.convention import Convention, count_flops, find_convention, flops_per_token
from flopwatch.errors import InputError
from flopwatch.fields import is_whole
from flopwatch.model.spec import ModelSpec
from flopwatch.workload import Workload

Parabola = tuple[float, float, float]
"""c0, c1, c2 of c0 + c1 T + c2 T^2."""

_HOST_HINT: Final = (
    "give whole numbers counted on the host: reading a tensor would make the loop wait for the device"
    " (attention_mask.sum(1).tolist() before the batch goes there)"
)


class LengthFlops(dict[int, float]):
    """FLOPs of one sequence in a training step by its length T; each length is worked out once.

    Weights cost linearly and attention at most quadratically in T, so that a parabola holds them exactly: one up to
    the attention window and one beyond it (`last_short`), where the windowed layers only grow linearly. Nothing is
    longer than the model's context, `longest`.
    """

    def __init__(
        self,
        short: Parabola,
        long: Parabola | None = None,
        *,
        last_short: int | None = None,
        longest: int | None = None,
    ) -> None:
        super().__init__()
        self._short = short
        self._long = long
        self._last_short = last_short
        self._longest = longest

    def __missing__(self, length: int) -> float:
        if not isinstance(length, Integral) or length < 1:
            hint = "leave out rows without tokens" if isinstance(length, Integral) else _HOST_HINT
            raise InputError(f"{_shown(length)} is no length of a sequence", hint=hint)
        length = int(length)
        if self._longest is not None and length > self._longest:
            raise InputError(
                f"a sequence of {length} tokens is longer than the model's context, {self._longest}",
                hint="give the lengths of single sequences, or a spec with a larger max_seq_len",
            )
        is_long = self._last_short is not None and length > self._last_short
        c0, c1, c2 = self._long if is_long and self._long is not None else self._short
        flops = self[length] = c0 + c1 * length + c2 * length * length
        return flops


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StepCost:
    """FLOPs of a training step: what the task needs (`model`, for MFU) and what the hardware does (for HFU).

    The figures `_per_token` hold for sequences of `seq_len` tokens; None when no length was given. The two tables by
    length are None when only one number a token is known. `source` names what was counted, and under which convention;
    `reason` says why nothing is known, where that is so.
    """

    source: str | None = None
    reason: str | None = None
    seq_len: int | None = None
    model_per_token: float | None = None
    hardware_per_token: float | None = None
    model: LengthFlops | None = None
    hardware: LengthFlops | None = None


def unknown_cost(reason: str, *, seq_len: int | None = None) -> StepCost:
    """A cost that knows no FLOPs, so that tokens/s are all that is told."""
    if seq_len is not None:
        _check_whole("seq_len", seq_len)
    return StepCost(reason=reason, seq_len=seq_len)


def cost_of_spec(
    spec: ModelSpec,
    *,
    seq_len: int | None = None,
    convention: Convention | str = "matmul",
    recompute: str = "none",
    uses_flash: bool = False,
) -> StepCost:
    """The closed form of a spec as the convention counts it, for any length.

    `uses_flash` adds the scores that a flash kernel computes again to the hardware's FLOPs. Raises SpecError for a
    `seq_len` beyond the context, InputError for a recomputation that the convention does not know.
    """
    rule = find_convention(convention) if isinstance(convention, str) else convention
    if not isinstance(rule, Convention):
        raise InputError(f"convention={rule!r} is none", hint="give the name of one (docs/conventions.md)")
    if seq_len is not None:
        _check_whole("seq_len", seq_len)
        spec.check_seq_len(seq_len)

    def model_flops(length: int) -> Fraction:
        return flops_per_token(spec, length, rule) * length

    def hardware_flops(length: int) -> Fraction:
        flops = flops_per_token(spec, length, rule, recompute=recompute) * length
        if uses_flash:
            work = Workload(batch=1, seq_len=length, phase="train", attention="flash")
            flops += count_flops(spec, work, rule).in_kernel.total
        return flops

    last_short = spec.window if spec.n_windowed_layers else None
    model = _by_length(model_flops, last_short, longest=spec.max_seq_len)
    hardware = _by_length(hardware_flops, last_short, longest=spec.max_seq_len)
    return StepCost(
        source=f"{spec.name}, convention {rule.name}",
        seq_len=seq_len,
        model_per_token=None if seq_len is None else model[seq_len] / seq_len,
        hardware_per_token=None if seq_len is None else hardware[seq_len] / seq_len,
        model=model,
        hardware=hardware,
    )


def cost_of_numbers(
    flops_per_token: float,
    *,
    hardware_flops_per_token: float | None = None,
    attention_flops_per_pair: float | None = None,
    seq_len: int | None = None,
) -> StepCost:
    """A cost from figures that the user has, from a trace or a paper; what they cover is all that it can tell.

    `flops_per_token` are all FLOPs of a step for a token of a sequence of `seq_len`. `attention_flops_per_pair` is the
    part of them that each (query, key) pair costs; with it other lengths than `seq_len` can be counted.
    """
    hardware = flops_per_token if hardware_flops_per_token is None else hardware_flops_per_token
    for name, value in (("flops_per_token", flops_per_token), ("hardware_flops_per_token", hardware)):
        if not (is_number(value) and isfinite(value) and value > 0):
            hint = "give the FLOPs of a training step for a token, a number"
            raise InputError(f"{name}={value} is not above zero", hint=hint)
    if hardware < flops_per_token:
        raise InputError(
            f"hardware_flops_per_token={hardware:g} is below flops_per_token={flops_per_token:g}",
            hint="the hardware does what the model needs and what is recomputed",
        )
    if seq_len is not None:
        _check_whole("seq_len", seq_len)
    flops_per_token, hardware = float(flops_per_token), float(hardware)
    source = "FLOPs a token as given"
    by_length: list[LengthFlops | None] = [None, None]
    if attention_flops_per_pair is not None:
        by_length = [_split(total, attention_flops_per_pair, seq_len) for total in (flops_per_token, hardware)]
    return StepCost(
        source=source,
        seq_len=seq_len,
        model_per_token=flops_per_token,
        hardware_per_token=hardware,
        model=by_length[0],
        hardware=by_length[1],
    )


def whole(name: str, value: object) -> int:
    """`value` as an int of 0 or more; raises InputError for anything else, a tensor above all."""
    if not is_whole(value, least=0):
        raise InputError(f"{name}={_shown(value)} is not a whole number from 0 on", hint=_HOST_HINT)
    return int(value)  # type: ignore[call-overload, no-any-return]


def is_number(value: object) -> bool:
    """Whether it is a real number on the host: no bool, no text, no tensor."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """A value for a message; of anything but a number only its type, so that no device is asked."""
    return str(value) if isinstance(value, int | float | Integral) else type(value).__name__


def _check_whole(name: str, value: object) -> None:
    if whole(name, value) == 0:
        raise InputError(f"{name}=0 is no length of a sequence", hint="it counts from 1")


def _split(flops_per_token: float, attention_flops_per_pair: float, seq_len: int | None) -> LengthFlops:
    if seq_len is None:
        raise InputError(
            "attention_flops_per_pair without seq_len cannot be split from flops_per_token",
            hint="give the seq_len that flops_per_token was counted at",
        )
    if not is_number(attention_flops_per_pair):
        raise InputError(f"attention_flops_per_pair={attention_flops_per_pair} is no number", hint="give FLOPs")
    linear = flops_per_token - attention_flops_per_pair * seq_len
    if not (attention_flops_per_pair >= 0 and linear >= 0):
        raise InputError(
            f"attention_flops_per_pair={attention_flops_per_pair:g} x {seq_len} tokens is not within"
            f" flops_per_token={flops_per_token:g}",
            hint="it is the attention's share of them for one query and one key, over all layers",
        )
    return LengthFlops((0.0, linear, float(attention_flops_per_pair)))


def _by_length(flops_of: Callable[[int], Fraction], last_short: int | None, *, longest: int) -> LengthFlops:
    """The parabolas of an exact function that is one up to `last_short` and another beyond it."""
    if last_short is None:
        return LengthFlops(_parabola(flops_of, (1, 2, 3)), longest=longest)
    long = _parabola(flops_of, (last_short + 1, last_short + 2, last_short + 3))
    middle = max(1, last_short // 2)
    if last_short < 3:  # too few lengths for three points: through them and through 0
        short = _parabola(flops_of, (0, 1, last_short)) if last_short == 2 else (0.0, float(flops_of(1)), 0.0)
    else:
        short = _parabola(flops_of, (1, max(2, middle), last_short))
    return LengthFlops(short, long, last_short=last_short, longest=longest)


def _parabola(flops_of: Callable[[int], Fraction], lengths: tuple[int, int, int]) -> Parabola:
    """The parabola through three points, exact until it is rounded to floats at the end (Newton's differences)."""
    x0, x1, x2 = lengths
    y0, y1, y2 = (flops_of(x) if x else Fraction() for x in lengths)
    slope = (y1 - y0) / (x1 - x0)
    c2 = ((y2 - y1) / (x2 - x1) - slope) / (x2 - x0)
    c1 = slope - c2 * (x0 + x1)
    c0 = y0 - c1 * x0 - c2 * x0 * x0
    return float(c0), float(c1), float(c2)
