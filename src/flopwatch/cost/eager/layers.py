"""Norm, FFN and attention of the reference network (reference/layers.py) on tensors without data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from flopwatch.cost.eager.arith import (
    add,
    add_number,
    div,
    from_input,
    from_result,
    mul,
    power,
    rsqrt,
    scale,
    sqrt,
    sub,
)
from flopwatch.cost.eager.engine import Eager
from flopwatch.cost.eager.matmul import linear
from flopwatch.cost.eager.reduce import layer_norm, mean_last, rms_norm, var_last
from flopwatch.cost.eager.tensor import Shape, Tensor
from flopwatch.cost.eager.tuning import Tuning
from flopwatch.model.spec import ModelSpec


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How the network is written and in what it is kept: the parts of a Workload that building it needs."""

    is_elementary: bool
    attention: str  # math or flash
    weight_dtype: str
    activation_dtype: str  # what rows of a table are read as; differs from weight_dtype where only weights are small
    tuning: Tuning

    def parameter(self, e: Eager, shape: Shape, module: str) -> Tensor:
        """A weight of `module`, trained or frozen."""
        return e.parameter(shape, self.weight_dtype, module, is_trained=self.tuning.trains(module))


class Linear:
    """A weight [O, I] and, where it has one, a bias [O]; or several of them, which share the rows out."""

    def __init__(
        self,
        e: Eager,
        style: Style,
        name: str,
        d_in: int,
        d_out: int,
        *,
        bias: bool,
        weight: Tensor | None = None,
        n_copies: int = 1,
    ) -> None:
        self.e = e
        self.name = name.rpartition(".")[2]
        several = (n_copies,) if n_copies > 1 else ()
        self.weight = weight or style.parameter(e, (*several, d_out, d_in), name)
        self.bias = style.parameter(e, (*several, d_out), name) if bias else None
        self.adapter: tuple[Tensor, Tensor] | None = None
        rank = style.tuning.lora_rank
        if rank and name.startswith("layers."):
            dtype = style.activation_dtype
            down = e.parameter((*several, rank, d_in), dtype, f"{name}.lora_down")
            self.adapter = (down, e.parameter((*several, d_out, rank), dtype, f"{name}.lora_up"))

    def __call__(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        with self.e.module(self.name):
            result = linear(self.e, x, self.weight, self.bias)
            if self.adapter is None:
                return result
            down, up = self.adapter
            return add(self.e, result, scale(self.e, linear(self.e, linear(self.e, x, down, None), up, None)))

    def parameters(self) -> Iterator[Tensor]:
        """Weight, then bias, then the adapter's."""
        yield self.weight
        if self.bias is not None:
            yield self.bias
        yield from self.adapter or ()


class Norm:
    """LayerNorm or RMSNorm over the last axis, in one kernel or written out."""

    def __init__(self, e: Eager, style: Style, name: str, width: int, *, kind: str, bias: bool) -> None:
        self.e = e
        self.name = name.rpartition(".")[2]
        self.kind = kind
        self.is_elementary = style.is_elementary
        self.weight = style.parameter(e, (width,), name)
        self.bias = style.parameter(e, (width,), name) if bias else None

    def __call__(self, x: Tensor) -> Tensor:
        """[..., W] -> [..., W]."""
        with self.e.module(self.name):
            if self.kind == "rmsnorm":
                return self._rms(x)
            return self._written_out(x) if self.is_elementary else layer_norm(self.e, x, self.weight, self.bias)

    def _rms(self, x: Tensor) -> Tensor:
        if not self.is_elementary:
            return rms_norm(self.e, x, self.weight)
        e = self.e
        variance = mean_last(e, power(e, x))
        return mul(e, self.weight, mul(e, x, rsqrt(e, add_number(e, variance))))

    def _written_out(self, x: Tensor) -> Tensor:
        e = self.e
        mean = mean_last(e, x)
        variance = var_last(e, x)
        normed = mul(e, self.weight, div(e, sub(e, x, mean), sqrt(e, add_number(e, variance))))
        return normed if self.bias is None else add(e, normed, self.bias)

    def parameters(self) -> Iterator[Tensor]:
        """Weight, then bias."""
        yield self.weight
        if self.bias is not None:
            yield self.bias


def gelu(e: Eager, x: Tensor, *, is_elementary: bool) -> Tensor:
    """GELU in one kernel, or 0.5 x (1 + tanh(c (x + 0.044715 x^3))) written out."""
    if not is_elementary:
        return from_input(e, "gelu", x)
    # Nested as the reference writes it: a name would keep a temporary alive that Python drops there.
    return mul(
        e,
        scale(e, x),
        add_number(e, from_result(e, "tanh", scale(e, add(e, x, scale(e, power(e, x)))))),
    )


class FeedForward:
    """Two matrices with GELU or ReLU, or three with a gate."""

    def __init__(
        self, e: Eager, spec: ModelSpec, style: Style, name: str, d_ff: int, *, bias: bool, n_copies: int = 1
    ) -> None:
        self.e = e
        self.name = name.rpartition(".")[2]
        self.kind = spec.ffn
        self.is_elementary = style.is_elementary
        d = spec.d_model
        self.gate = Linear(e, style, f"{name}.gate", d, d_ff, bias=bias, n_copies=n_copies) if spec.is_gated else None
        self.up = Linear(e, style, f"{name}.up", d, d_ff, bias=bias, n_copies=n_copies)
        self.down = Linear(e, style, f"{name}.down", d_ff, d, bias=bias, n_copies=n_copies)

    def __call__(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        e = self.e
        with e.module(self.name):
            if self.gate is not None:
                gate = self.gate(x)
                hidden = mul(e, self._activation(gate), self.up(x))
            else:
                hidden = self._activation(self.up(x))
            return self.down(hidden)

    def _activation(self, x: Tensor) -> Tensor:
        if self.kind == "relu":
            return from_result(self.e, "relu", x)
        if self.kind == "swiglu":
            return from_input(self.e, "silu", x)
        return gelu(self.e, x, is_elementary=self.is_elementary)

    def parameters(self) -> Iterator[Tensor]:
        """Gate, up, down."""
        for part in (self.gate, self.up, self.down):
            if part is not None:
                yield from part.parameters()
