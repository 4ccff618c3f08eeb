"""Polynomials in batch and sequence length, read off one evaluation of a closed form.

A closed form computes with whole numbers only. At a batch and a sequence length that no coefficient reaches, its result
is the polynomial itself, written in the base of those two numbers: the digits are the coefficients (Kronecker
substitution). That is exact, and one evaluation does it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Final

import msgspec

from flopwatch.errors import FlopwatchError
from flopwatch.workload import Workload

Polynomial = tuple[float, ...]
"""Coefficients of 1, B, T, BT, T², BT²; whole numbers, but for rows that a mixture of experts shares out."""

ZERO: Final[Polynomial] = (0, 0, 0, 0, 0, 0)
# Two Mersenne primes: no width divides them, and T² with its coefficient stays below B.
_SEQ_LEN: Final = (1 << 89) - 1
_BATCH: Final = (1 << 521) - 1
_MOST: Final = 1 << 80  # past any coefficient, far below half of _SEQ_LEN


class NotPolynomialError(FlopwatchError):
    """A figure that is no polynomial in batch and sequence length."""


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """Batch and sequence length to evaluate a closed form at: both are multiples of `unit`, or the batch is 1.

    The rows of a mixture of experts are dealt out evenly where they are a multiple of its experts, the unit.
    """

    unit: int = 1
    is_batch_one: bool = False

    @property
    def batch(self) -> int:
        """The batch: 1, or a number that no coefficient reaches."""
        return 1 if self.is_batch_one else self.unit * _BATCH

    @property
    def seq_len(self) -> int:
        """The sequence length, which no coefficient reaches."""
        return self.unit * _SEQ_LEN

    def of(self, workload: Workload) -> Workload:
        """`workload` at these sizes, past its check that nobody asks for so much."""
        made = copy.copy(workload)
        msgspec.structs.force_setattr(made, "batch", self.batch)
        msgspec.structs.force_setattr(made, "seq_len", self.seq_len)
        return made

    def read(self, value: int) -> Polynomial:
        """The polynomial whose value at these sizes is `value`; raises NotPolynomialError where there is none."""
        with_batch, without = _split(value, _BATCH)
        one, length, square = _digits(without)
        batch, both, batch_square = _digits(with_batch)
        scaled = (one, batch, length, both, square, batch_square)
        if self.unit == 1:
            return scaled
        return tuple(_over(n, self.unit**power) for n, power in zip(scaled, (0, 1, 1, 2, 2, 3), strict=True))


def _over(numerator: int, denominator: int) -> float:
    return numerator // denominator if numerator % denominator == 0 else numerator / denominator


def _split(value: int, base: int) -> tuple[int, int]:
    """(a, b) with value = a * base + b and b between -base/2 and base/2: coefficients may be negative."""
    high, low = divmod(value, base)
    return (high + 1, low - base) if low > base // 2 else (high, low)


def _digits(value: int) -> tuple[int, int, int]:
    """The coefficients of 1, T and T²."""
    rest, one = _split(value, _SEQ_LEN)
    square, length = _split(rest, _SEQ_LEN)
    if max(abs(one), abs(length), abs(square)) > _MOST:
        raise NotPolynomialError("a figure is no polynomial of second degree in the sequence length")
    return one, length, square


def value_at(polynomial: Polynomial, batch: int, seq_len: int) -> float:
    """The polynomial's value."""
    one, b, t, bt, tt, btt = polynomial
    return one + b * batch + (t + bt * batch) * seq_len + (tt + btt * batch) * seq_len * seq_len


def from_least(polynomial: Polynomial, least_batch: int, least_seq_len: int) -> Polynomial:
    """The polynomial in B - least_batch and T - least_seq_len: where no coefficient is negative, it only grows."""
    one, b, t, bt, tt, btt = polynomial
    x, y = least_batch, least_seq_len
    return (
        one + b * x + (t + bt * x) * y + (tt + btt * x) * y * y,
        b + bt * y + btt * y * y,
        t + bt * x + 2 * y * (tt + btt * x),
        bt + 2 * y * btt,
        tt + btt * x,
        btt,
    )


def undominated(polynomials: Sequence[Polynomial]) -> list[int]:
    """The places of those that no other is above in every coefficient; of equal ones the first."""
    order = sorted(range(len(polynomials)), key=lambda place: (-math.fsum(polynomials[place]), place))
    kept: list[int] = []
    for place in order:
        mine = polynomials[place]
        if not any(all(a >= b for a, b in zip(polynomials[above], mine, strict=True)) for above in kept):
            kept.append(place)
    return sorted(kept)
