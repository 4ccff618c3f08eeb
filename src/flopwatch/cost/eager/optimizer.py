"""The optimizer's state, and what one update needs beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from flopwatch.cost.eager.engine import Eager, pointwise
from flopwatch.cost.eager.tensor import Tensor, count
from flopwatch.cost.eager.tuning import AdamW

_LEAST_8_BIT: Final = 4096  # bitsandbytes: min_8bit_size
_BLOCK_8_BIT: Final = 256  # bitsandbytes: elements that share one fp32 scale


class Optimizer:
    """torch's AdamW or SGD with its defaults over the parameters that are trained."""

    def __init__(self, e: Eager, kind: str, parameters: Sequence[Tensor], *, adamw: AdamW) -> None:
        self.e = e
        self.kind = kind
        self.parameters = parameters
        self.adamw = adamw
        self.state: list[Tensor] = []

    def make_state(self) -> None:
        """Two moments a parameter, in its dtype, and a step count (nothing for SGD without momentum)."""
        if self.kind != "adamw" or self.state:
            return
        e = self.e
        e.tape.op = "optimizer_state"
        for parameter in self.parameters:
            e.tape.module = _module(parameter)
            if self.adamw == "8-bit":
                self.state += self._eight_bit(count(parameter.shape))
                continue
            self.state.append(e.empty((), "fp32", "optimizer"))
            self.state += [e.empty(parameter.shape, parameter.dtype, "optimizer") for _ in range(2)]

    def _eight_bit(self, n: int) -> list[Tensor]:
        if n < _LEAST_8_BIT:
            return [self.e.empty((n,), "fp32", "optimizer") for _ in range(2)]
        moments = [self.e.empty((n,), "int8", "optimizer") for _ in range(2)]
        return moments + [self.e.empty((-(-n // _BLOCK_8_BIT),), "fp32", "optimizer") for _ in range(2)]

    def step(self) -> None:
        """Update all parameters, then drop their gradients."""
        self.e.tape.phase = "optimizer"
        self.make_state()
        if self.kind == "adamw" and self.adamw == "single":
            self._one_by_one()
        if self.kind == "adamw" and self.adamw == "foreach":
            self._all_at_once()
        for parameter in self.parameters:
            if parameter.node is not None:
                parameter.node.grad = None

    def _one_by_one(self) -> None:
        """The last denominator lives until the next takes its name."""
        denominator: Tensor | None = None
        for parameter in self.parameters:
            self.e.tape.module = _module(parameter)
            root = pointwise(self.e, "sqrt", parameter)
            divided = pointwise(self.e, "div", root)
            del root
            denominator = divided
            del divided
        del denominator

    def _all_at_once(self) -> None:
        """One list of denominators as large as all parameters."""
        denominators = []
        for parameter in self.parameters:
            self.e.tape.module = _module(parameter)
            denominators.append(pointwise(self.e, "foreach_sqrt", parameter))
        del denominators


def _module(parameter: Tensor) -> str:
    return parameter.node.module if parameter.node is not None else ""
