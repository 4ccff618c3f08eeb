"""count_work: tokens and FLOPs of one micro-batch from what its loop says of it, without asking a device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flopwatch.errors import InputError
from flopwatch.measure.meter_cost import LengthFlops, StepCost, whole

Work = tuple[int, float, float]
"""Tokens, model FLOPs and hardware FLOPs; the FLOPs are 0.0 where the cost is not known."""


def count_work(
    cost: StepCost,
    *,
    tokens: int | None = None,
    sequences: int | None = None,
    lengths: Iterable[int] | None = None,
    padded_to: int | None = None,
) -> Work:
    """The work of a micro-batch; `Meter.add` says what the arguments mean and what is refused."""
    if lengths is not None:
        if tokens is not None or sequences is not None:
            raise InputError("lengths say what tokens and sequences say", hint="give one of them")
        return _of_lengths(cost, _listed(lengths), padded_to)
    if padded_to is not None:
        raise InputError(f"padded_to={padded_to} without lengths hides the padding", hint="give lengths too")
    if tokens is not None and tokens.__class__ is not int:
        tokens = whole("tokens", tokens)
    if sequences is not None:
        return _of_sequences(cost, tokens, whole("sequences", sequences))
    if tokens is None:
        raise InputError("a step without tokens", hint="give tokens=, sequences= or lengths=")
    return _of_tokens(cost, tokens)


def _of_tokens(cost: StepCost, tokens: int) -> Work:
    if tokens < 0:
        whole("tokens", tokens)
    if cost.reason is not None:
        return tokens, 0.0, 0.0
    if cost.model_per_token is None or cost.hardware_per_token is None:
        raise InputError(f"{tokens} tokens in sequences of no known length", hint="give the Meter seq_len=")
    return tokens, tokens * cost.model_per_token, tokens * cost.hardware_per_token


def _of_sequences(cost: StepCost, tokens: int | None, sequences: int) -> Work:
    if tokens is None:
        if cost.seq_len is None:
            raise InputError(f"{sequences} sequences of no known length", hint="give the Meter seq_len=, or tokens=")
        return _of_tokens(cost, sequences * cost.seq_len)
    if tokens == 0 and sequences == 0:
        return 0, 0.0, 0.0
    if sequences == 0 or tokens % sequences:
        raise InputError(f"{tokens} tokens in {sequences} sequences are not of one length", hint="give lengths=[...]")
    length = tokens // sequences
    if cost.reason is not None or length == cost.seq_len:
        return _of_tokens(cost, tokens)
    model, hardware = _tables(cost)
    return tokens, sequences * model[length], sequences * hardware[length]


def _listed(lengths: Iterable[int]) -> Sequence[int]:
    """The lengths as something that can be gone through more than once, which a generator cannot."""
    if isinstance(lengths, list | tuple):
        return lengths
    if isinstance(lengths, str | Mapping) or not isinstance(lengths, Iterable):
        raise InputError(f"lengths of type {type(lengths).__name__} are no list of lengths", hint="give lengths=[...]")
    return list(lengths)


def _of_lengths(cost: StepCost, lengths: Sequence[int], padded_to: int | None) -> Work:
    if cost.reason is not None:
        return sum(whole("a length", length) for length in lengths), 0.0, 0.0
    model, hardware = _tables(cost)
    try:
        model_flops = sum(map(model.__getitem__, lengths))
    except TypeError as error:  # a list or an array in place of a number cannot be looked up
        raise InputError("lengths of rows within lengths are no numbers", hint="give one flat list") from error
    tokens = sum(map(int, lengths))  # a sum of NumPy's small integers would overflow
    if padded_to is None:
        return tokens, model_flops, sum(map(hardware.__getitem__, lengths))
    longest = max(lengths, default=0)
    if longest > whole("padded_to", padded_to):
        raise InputError(f"padded_to={padded_to} is shorter than {longest}", hint="it is the length of the rows")
    return tokens, model_flops, len(lengths) * hardware[padded_to]


def _tables(cost: StepCost) -> tuple[LengthFlops, LengthFlops]:
    if cost.model is None or cost.hardware is None:
        raise InputError(
            f"flops_per_token holds for sequences of {cost.seq_len or 'one length'} only",
            hint="give the Meter a model, or attention_flops_per_pair= and seq_len= too",
        )
    return cost.model, cost.hardware
