"""The fields of a Convention: how FLOPs are counted, as data, checked once when it is made."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, Final, Literal

import msgspec

from flopwatch.errors import InputError
from flopwatch.fields import check_fields

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]*")
_SHARE: Final = re.compile(r"\d{1,9}(/[1-9]\d{0,8})?")
_MOST_SHARE: Final = 100

Attention = Literal[
    "full", "causal", "causal-exact", "window", "window-causal", "causal-window", "window-exact", "none"
]
Weights = Literal["matmul", "layers", "total", "no-positions", "no-input-embedding"]


def _fraction(share: float | str) -> Fraction:
    if isinstance(share, str):
        if not _SHARE.fullmatch(share):
            raise ValueError(f"{share!r} is not a share like 1, 0.75 or '3/4'")
        return Fraction(share)
    if isinstance(share, float) and not 0 <= share <= _MOST_SHARE:  # infinite and NaN have no fraction
        raise ValueError(f"{share} is not a share from 0 to {_MOST_SHARE}")
    return Fraction(str(share))


class Again(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is computed again in the backward pass, as a share of the forward pass: 1, 0.75 or "3/4".

    `layers` are the weights of the layers, `attention` scores and values, `head` the output head, `rest` what a
    convention counts besides: parameters that no matmul has, projections outside the layers.
    """

    layers: int | float | str = 0
    attention: int | float | str = 0
    head: int | float | str = 0
    rest: int | float | str = 0

    def __post_init__(self) -> None:
        for name, share in self.shares().items():
            if not 0 <= share <= _MOST_SHARE:
                raise ValueError(f"{name} is {share}, not a share from 0 to {_MOST_SHARE}")

    def shares(self) -> dict[str, Fraction]:
        """The four shares, exact."""
        return {
            "layers": _fraction(self.layers),
            "attention": _fraction(self.attention),
            "head": _fraction(self.head),
            "rest": _fraction(self.rest),
        }


_LAYERS_AGAIN: Final = {"full": Again(layers=1, attention=1), "selective": Again(attention=1)}


class Convention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How FLOPs are counted; the fields are explained at the top of conventions.toml and in docs/conventions.md."""

    name: str
    title: str
    source: str
    attention: Attention
    weights: Weights
    formula: str = ""
    head: Literal["full", "sc21"] = "full"
    router: bool = True
    ffn: Literal["as-built", "two-matrices"] = "as-built"
    mtp: bool = True
    again: dict[str, Again] = msgspec.field(default_factory=lambda: dict(_LAYERS_AGAIN))
    early_stop: bool = False
    in_kernel: bool = False
    quantity: Literal["model", "hardware"] = "model"
    assumes: str = "none"
    peak: Literal["one", "weighted"] = "one"

    def __post_init__(self) -> None:
        check_fields(self, InputError)
        if not _NAME.fullmatch(self.name) or self.name == "all":
            raise ValueError(f"the name {self.name!r} is not made of small letters, digits, . _ and -, or is 'all'")
        if self.counts_parameters and not (self.router and self.ffn == "as-built"):
            raise ValueError(f"weights={self.weights} counts parameters and cannot leave the router or a gate out")
        if self.head != "full" and self.weights != "matmul":
            raise ValueError(f"head={self.head} needs weights=matmul, not {self.weights}")
        if self.assumes not in self.recomputes:
            raise ValueError(f"assumes={self.assumes} is not one of {', '.join(self.recomputes)}")

    @property
    def counts_parameters(self) -> bool:
        """Whether it multiplies a number of parameters, and not the weights of the matmuls."""
        return self.weights in {"total", "no-positions", "no-input-embedding"}

    @property
    def recomputes(self) -> tuple[str, ...]:
        """The values of `--recompute` that it knows."""
        return ("none", *(name for name in self.again if name != "none"))

    def shares_again(self, recompute: str) -> dict[str, Fraction]:
        """What `recompute` computes again, as shares of the forward pass; raises InputError when it does not say."""
        if recompute == "none":
            return Again().shares()
        if recompute not in self.again:
            raise InputError(
                f"convention {self.name} does not say what recompute {recompute} costs",
                hint=f"it knows {', '.join(self.recomputes)}",
            )
        return self.again[recompute].shares()

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain data."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields
