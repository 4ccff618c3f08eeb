"""Attention of the reference network (reference/layers.py) on tensors without data."""

from __future__ import annotations

from collections.abc import Iterator

from flopwatch.cost.eager.arith import add, from_result, masked_fill_, mul, scale, sub
from flopwatch.cost.eager.engine import Eager, pointwise
from flopwatch.cost.eager.kernels import flash_attention, flat_heads, has_flash, math_attention, repeat_heads
from flopwatch.cost.eager.layers import Linear, Norm, Style
from flopwatch.cost.eager.matmul import matmul
from flopwatch.cost.eager.tensor import Tensor
from flopwatch.cost.eager.views import cat, narrow, reshape, to, transpose
from flopwatch.model.spec import ModelSpec


def rotate(e: Eager, x: Tensor) -> Tensor:
    """Rotary positions on [B, H, T, E]: angles in fp32, then each half times cosine and sine, joined."""
    length, width = x.shape[2:]
    half = width // 2
    e.tape.op = "rotate"
    frequencies, places = e.empty((half,), "fp32"), e.empty((length,), "fp32")
    angles = e.empty((length, half), "fp32")
    cos, sin = e.empty(angles.shape, "fp32"), e.empty(angles.shape, "fp32")
    cos, sin = to(e, cos, x.dtype), to(e, sin, x.dtype)
    first = narrow(e, x, 3, half)
    second = narrow(e, x, 3, half)
    rest = narrow(e, x, 3, width - 2 * half)
    one = sub(e, mul(e, first, cos), mul(e, second, sin))
    two = add(e, mul(e, second, cos), mul(e, first, sin))
    joined = cat(e, (one, two, rest), 3)
    del frequencies, places, angles
    return joined


class Cache:
    """Keys and values of one layer, with room for `capacity` tokens."""

    def __init__(self, e: Eager, keys: tuple[int, ...], values: tuple[int, ...], dtype: str, length: int) -> None:
        self.keys = e.empty(keys, dtype, "activations")
        self.values = e.empty(values, dtype, "activations")
        self.length = length

    def append(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Views of all keys and values so far, the new ones included."""
        length = self.length + k.shape[2]
        return _first(self.keys, length), _first(self.values, length)


def _first(x: Tensor, length: int) -> Tensor:
    return x.alias((*x.shape[:2], length, x.shape[3]), x.strides)


class AttentionCore:
    """Scores, softmax and values: [B,H,Q,E], [B,G,K,E], [B,G,K,F] -> [B,Q,H*F]."""

    def __init__(self, e: Eager, spec: ModelSpec, style: Style, *, window: int | None) -> None:
        self.e = e
        self.spec = spec
        self.style = style
        self.window = window
        self.mask: Tensor | None = None
        if style.is_elementary and spec.positions == "learned":
            e.tape.op = "mask"
            self.mask = e.empty((spec.max_seq_len, spec.max_seq_len), style.weight_dtype, "weights")

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The heads side by side again."""
        with self.e.module("core"):
            mixed = self._elementary(q, k, v) if self.style.is_elementary else self._fused(q, k, v)
            return flat_heads(self.e, mixed)

    def _elementary(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        e = self.e
        groups = q.shape[1] // k.shape[1]
        if groups > 1:
            k, v = repeat_heads(e, k, groups), repeat_heads(e, v, groups)
        scores = matmul(e, q, transpose(e, k, 2, 3))
        shape = scores.shape[-2:]
        mask = self._future(shape)
        if self.window is not None:
            mask = pointwise(e, "or", mask, self._too_old(shape))
        if self.spec.positions == "alibi":
            scores = add(e, scores, self._alibi(shape, q.dtype))
        scores = masked_fill_(e, scores, mask)
        weights = from_result(e, "softmax", scale(e, scores, "div"))
        return matmul(e, weights, v)

    def _fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        e = self.e
        n_queries, n_keys = shape = (q.shape[-2], k.shape[-2])
        is_causal = n_queries == n_keys and n_queries > 1
        mask: Tensor | None = None
        has_alibi = self.spec.positions == "alibi"
        if self.window is not None or has_alibi or (not is_causal and n_queries > 1):
            seen = self._too_old(shape) if self.window is not None else None
            future = self._future(shape)
            mask = pointwise(e, "not", future if seen is None else pointwise(e, "or", future, seen))
            if has_alibi:
                mask = pointwise(e, "where", mask, scale(e, self._alibi(shape, q.dtype), "div"), dtype=q.dtype)
            is_causal = False
        if self.style.attention == "math" or not has_flash(e, q, v, mask):
            return math_attention(e, q, k, v, mask, is_causal=is_causal)
        return flash_attention(e, q, k, v, mask)

    def _future(self, shape: tuple[int, ...]) -> Tensor:
        if self.mask is not None:
            table = pointwise(self.e, "to", self.mask, dtype="bool")
            return table.alias(shape, table.strides)
        return self._triangle(shape)

    def _too_old(self, shape: tuple[int, ...]) -> Tensor:
        return self._triangle(shape)

    def _triangle(self, shape: tuple[int, ...]) -> Tensor:
        self.e.tape.op = "ones"
        return pointwise(self.e, "triangle", self.e.empty(shape, "bool"))

    def _alibi(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        """Distance penalties [H, Q, K]: int64 distances times fp32 slopes, scaled, then in the dtype of the queries."""
        e = self.e
        e.tape.op = "alibi"
        distance = e.empty(shape, "int64")
        penalties = e.empty((self.spec.n_heads, *shape), "fp32")
        scaled = e.empty((self.spec.n_heads, *shape), "fp32")
        del distance, penalties
        return to(e, scaled, dtype)


class Attention:
    """Causal self-attention with grouped key-value heads."""

    def __init__(self, e: Eager, spec: ModelSpec, style: Style, name: str, *, window: int | None) -> None:
        self.e = e
        self.spec = spec
        d = spec.d_model
        self.q = Linear(e, style, f"{name}.q", d, spec.d_query, bias=spec.qkv_bias)
        self.k = Linear(e, style, f"{name}.k", d, spec.d_kv, bias=spec.qkv_bias)
        self.v = Linear(e, style, f"{name}.v", d, spec.d_kv, bias=spec.qkv_bias)
        self.out = Linear(e, style, f"{name}.out", spec.d_query, d, bias=spec.out_bias)
        widths = {"none": None, "per_head": (spec.d_head, spec.d_head), "full": (spec.d_query, spec.d_kv)}[spec.qk_norm]
        self.norms: tuple[Norm, Norm] | None = None
        if widths is not None:
            q_norm = Norm(e, style, f"{name}.q_norm", widths[0], kind="rmsnorm", bias=False)
            self.norms = (q_norm, Norm(e, style, f"{name}.k_norm", widths[1], kind="rmsnorm", bias=False))
        self.core = AttentionCore(e, spec, style, window=window)

    def __call__(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        e, spec = self.e, self.spec
        with e.module("attention"):
            q, k, v = self.q(x), self.k(x), self.v(x)
            if self.norms is not None and spec.qk_norm == "full":
                q, k = self.norms[0](q), self.norms[1](k)
            q, k, v = (_heads(e, part, spec.d_head) for part in (q, k, v))
            if self.norms is not None and spec.qk_norm == "per_head":
                q, k = self.norms[0](q), self.norms[1](k)
            if spec.positions == "rope":
                q, k = rotate(e, q), rotate(e, k)
            if cache is not None:
                k, v = cache.append(k)
            return self.out(self.core(q, k, v))

    def parameters(self) -> Iterator[Tensor]:
        """In the order in which the module registers them."""
        for part in (self.q, self.k, self.v, self.out, *(self.norms or ())):
            yield from part.parameters()


def _heads(e: Eager, x: Tensor, width: int) -> Tensor:
    """[B,T,H*E] -> [B,H,T,E]."""
    split = reshape(e, x, (*x.shape[:-1], x.shape[-1] // width, width))
    return transpose(e, split, 1, 2)
