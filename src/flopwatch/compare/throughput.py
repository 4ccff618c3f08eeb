"""Throughput: how fast a run was, from whichever figure its owner has."""

from __future__ import annotations

import reprlib
from math import isfinite
from numbers import Real
from typing import Final

import msgspec

from flopwatch.errors import InputError

_SECONDS_PER_DAY: Final = 86_400
_LEAST_TOKENS_PER_S: Final = 1e-9
_MOST_TOKENS_PER_S: Final = 1e15
_LARGEST: Final = 1 << 80
_WAYS: Final = (
    "--tokens-per-s, --tokens-per-s-per-device, --step-s with --batch, --samples-per-s, or --days with --tokens"
)


class Throughput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run's speed, given in one way: of all its devices together unless it says otherwise.

    `batch` is the sequences of one optimizer step over all devices. Samples are sequences. Raises InputError when the
    figures contradict each other or are not enough.
    """

    tokens_per_s: float | None = None
    tokens_per_s_per_device: float | None = None
    step_s: float | None = None
    samples_per_s: float | None = None
    days: float | None = None
    tokens: int | None = None
    batch: int | None = None
    n_devices: int = 1

    def __post_init__(self) -> None:
        for name in msgspec.structs.fields(self):
            value = getattr(self, name.name)
            if value is not None:
                _check_number(_flag(name.name), value, is_whole=name.name in {"n_devices", "batch"})
        given = self._given()
        if not given:
            raise InputError("no throughput is given", hint=f"give one of {_WAYS}")
        if len(given) > 1:
            both = " and ".join(_flag(name) for name in given)
            raise InputError(f"{both} both say how fast the run was", hint="give one of them")
        if self.step_s is not None and self.batch is None:
            raise InputError("--step-s without --batch is no throughput", hint="give the sequences of one step too")
        if (self.days is None) != (self.tokens is None):
            raise InputError("--days and --tokens belong together", hint="give both: the days that N tokens took")

    def _given(self) -> list[str]:
        ways = {
            "tokens_per_s": self.tokens_per_s,
            "tokens_per_s_per_device": self.tokens_per_s_per_device,
            "step_s": self.step_s,
            "samples_per_s": self.samples_per_s,
            "tokens" if self.days is None else "days": self.tokens if self.days is None else self.days,
        }
        return [name for name, value in ways.items() if value is not None]

    def all_tokens_per_s(self, seq_len: int) -> float:
        """Tokens per second of all devices together, for sequences of `seq_len` tokens.

        Raises InputError for a speed that no run has, where a unit or a power of ten has slipped.
        """
        speed = self._tokens_per_s(seq_len)
        if not _LEAST_TOKENS_PER_S <= speed <= _MOST_TOKENS_PER_S:
            raise InputError(f"{speed:.3g} tokens/s is no speed of a run", hint="check the units of the throughput")
        return speed

    def _tokens_per_s(self, seq_len: int) -> float:
        if self.tokens_per_s is not None:
            return self.tokens_per_s
        if self.tokens_per_s_per_device is not None:
            return self.tokens_per_s_per_device * self.n_devices
        if self.samples_per_s is not None:
            return self.samples_per_s * seq_len
        if self.step_s is not None and self.batch is not None:
            return self.batch * seq_len / self.step_s
        if self.days is not None and self.tokens is not None:
            return self.tokens / (self.days * _SECONDS_PER_DAY)
        raise AssertionError("one way is given: checked when made")


def _check_number(flag: str, value: object, *, is_whole: bool) -> None:
    """Raise InputError for what is no number above zero; devices and sequences come whole."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(f"{flag} {reprlib.repr(value)} is not a number", hint="give what was measured")
    if isinstance(value, int) and value > _LARGEST:
        raise InputError(f"{flag} {reprlib.repr(value)} is too large", hint="give what was measured")
    if not (isfinite(value) and float(value) > 0):
        raise InputError(f"{flag} {value} is not above zero", hint="give what was measured")
    if is_whole and not float(value).is_integer():
        raise InputError(f"{flag} {value} is not a whole number", hint="give what was measured")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
