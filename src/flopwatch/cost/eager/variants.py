"""Latent attention and mixtures of experts (reference/variants.py) on tensors without data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from flopwatch.cost.eager.arith import add, from_result, mul
from flopwatch.cost.eager.attention import AttentionCore, Cache, rotate
from flopwatch.cost.eager.engine import Eager, pointwise
from flopwatch.cost.eager.layers import FeedForward, Linear, Norm, Style
from flopwatch.cost.eager.reduce import take_rows, topk
from flopwatch.cost.eager.tensor import Gradients, Saved, Tensor
from flopwatch.cost.eager.views import cat, expand, narrow, reshape, split, to, transpose
from flopwatch.model.spec import MLASpec, ModelSpec, MoESpec

_MOST_BUNDLES: Final = 32  # 256 experts one by one would take 20 s for an estimate


class LatentAttention:
    """Multi-head latent attention: low-rank queries, keys and values, one shared rotary key."""

    def __init__(self, e: Eager, spec: ModelSpec, mla: MLASpec, style: Style, name: str, *, window: int | None) -> None:
        self.e = e
        self.mla = mla
        self.n_heads = spec.n_heads
        d, bias = spec.d_model, spec.qkv_bias
        d_query = spec.n_heads * (mla.d_nope + mla.d_rope)
        self.queries: tuple[Linear | Norm, ...]
        if mla.q_rank:
            down = Linear(e, style, f"{name}.q_down", d, mla.q_rank, bias=bias)
            norm = Norm(e, style, f"{name}.q_norm", mla.q_rank, kind="rmsnorm", bias=False)
            self.queries = (down, norm, Linear(e, style, f"{name}.q_up", mla.q_rank, d_query, bias=False))
        else:
            self.queries = (Linear(e, style, f"{name}.q", d, d_query, bias=False),)
        self.kv_down = Linear(e, style, f"{name}.kv_down", d, mla.kv_rank + mla.d_rope, bias=bias)
        self.kv_norm = Norm(e, style, f"{name}.kv_norm", mla.kv_rank, kind="rmsnorm", bias=False)
        d_kv = spec.n_heads * (mla.d_nope + mla.d_value)
        self.kv_up = Linear(e, style, f"{name}.kv_up", mla.kv_rank, d_kv, bias=False)
        self.out = Linear(e, style, f"{name}.out", spec.n_heads * mla.d_value, d, bias=spec.out_bias)
        self.core = AttentionCore(e, spec, style, window=window)

    def __call__(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        e, mla = self.e, self.mla
        with e.module("attention"):
            q = self._heads(self._project_queries(x))
            q = cat(e, (narrow(e, q, 3, mla.d_nope), rotate(e, narrow(e, q, 3, mla.d_rope))), 3)
            latent, k_rope = split(e, self.kv_down(x), (mla.kv_rank, mla.d_rope), 2)
            k_nope, v = split(e, self._heads(self.kv_up(self.kv_norm(latent))), (mla.d_nope, mla.d_value), 3)
            batch, length, width = k_rope.shape
            k_rope = rotate(e, reshape(e, k_rope, (batch, 1, length, width)))
            k = cat(e, (k_nope, expand(e, k_rope, (batch, self.n_heads, length, width))), 3)
            if cache is not None:
                k, v = cache.append(k)
            return self.out(self.core(q, k, v))

    def _project_queries(self, x: Tensor) -> Tensor:
        for part in self.queries:
            x = part(x)
        return x

    def _heads(self, x: Tensor) -> Tensor:
        split = reshape(self.e, x, (*x.shape[:-1], self.n_heads, x.shape[-1] // self.n_heads))
        return transpose(self.e, split, 1, 2)

    def parameters(self) -> Iterator[Tensor]:
        """In the order in which the module registers them."""
        for part in (*self.queries, self.kv_down, self.kv_norm, self.kv_up, self.out):
            yield from part.parameters()


def expert_bundles(n_experts: int) -> tuple[int, ...]:
    """Experts that are written out as one: each on its own up to 32, else 32 bundles of nearly equal size.

    All of their weights and rows are there; only what one expert needs for a moment is that of a bundle.
    """
    n_bundles = min(n_experts, _MOST_BUNDLES)
    each, more = divmod(n_experts, n_bundles)
    return tuple(each + (bundle < more) for bundle in range(n_bundles))


class MixtureOfExperts:
    """Each token passes its best experts, the rows dealt out evenly, and the shared ones."""

    def __init__(self, e: Eager, spec: ModelSpec, moe: MoESpec, style: Style, name: str) -> None:
        self.e = e
        self.moe = moe
        self.router = Linear(e, style, f"{name}.router", spec.d_model, moe.n_experts, bias=moe.router_bias)
        self.bundles = expert_bundles(moe.n_experts)
        self.experts = [
            FeedForward(e, spec, style, f"{name}.experts.{n}", moe.d_ff_expert, bias=moe.expert_bias, n_copies=size)
            for n, size in enumerate(self.bundles)
        ]
        self.shared: FeedForward | None = None
        if moe.n_shared_experts:
            self.shared = FeedForward(e, spec, style, f"{name}.shared", moe.d_ff_shared, bias=False)
        self.gate = Linear(e, style, f"{name}.shared_gate", spec.d_model, 1, bias=False) if moe.shared_gate else None

    def __call__(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        e = self.e
        with e.module("moe"):
            rows = reshape(e, x, (x.shape[0] * x.shape[1], x.shape[2]))
            n_rows, k = rows.shape[0], self.moe.experts_per_token
            weights, chosen = topk(e, from_result(e, "softmax", self.router(rows)), k)
            e.tape.op = "argsort"
            order = e.empty((n_rows * k,), "int64")
            sent = split(e, self._sent(rows, order), self._counts(n_rows * k), 0)
            done = cat(e, tuple(expert(part) for expert, part in zip(self.experts, sent, strict=True)), 0)
            done = mul(e, done, self._weights(weights, order))
            mixed = self._mix(rows, order, to(e, done, rows.dtype))
            shared = self.shared(rows) if self.shared is not None else None
            if shared is not None:
                mixed = add(e, mixed, self._gated(shared, rows))
            del chosen, shared  # alive until here, as in the reference
            return reshape(e, mixed, x.shape)

    def _sent(self, rows: Tensor, order: Tensor) -> Tensor:
        place = pointwise(self.e, "div", order)
        return take_rows(self.e, rows, place)

    def _weights(self, weights: Tensor, order: Tensor) -> Tensor:
        flat = reshape(self.e, weights, (order.shape[0],))
        taken = take_rows(self.e, flat, order)
        return reshape(self.e, taken, (order.shape[0], 1))

    def _mix(self, rows: Tensor, order: Tensor, done: Tensor) -> Tensor:
        """Zeros, then every row of `done` added to the token that it belongs to."""
        e = self.e
        e.tape.op = "index_add"
        zeros = e.empty(rows.shape, rows.dtype)
        place = pointwise(e, "index_add", order)
        mixed = e.empty(zeros.shape, zeros.dtype)
        shape, dtype = done.shape, done.dtype

        def backward(_: Gradients, _saved: Saved) -> Gradients:
            e.tape.op = "index_select"
            return (e.empty(shape, dtype),)

        e.record("index_add", mixed, (done,), backward, (place, done))
        return mixed

    def _gated(self, shared: Tensor, rows: Tensor) -> Tensor:
        if self.gate is None:
            return shared
        return mul(self.e, from_result(self.e, "sigmoid", self.gate(rows)), shared)

    def _counts(self, n: int) -> tuple[int, ...]:
        """Rows of each bundle: those of its experts, dealt out evenly."""
        each, more = divmod(n, self.moe.n_experts)
        ends = list(itertools.accumulate(self.bundles))
        starts = [0, *ends[:-1]]
        pairs = zip(starts, ends, strict=True)
        return tuple(each * (end - start) + max(0, min(end, more) - start) for start, end in pairs)

    def parameters(self) -> Iterator[Tensor]:
        """In the order in which the module registers them."""
        for part in (self.router, *self.experts, self.shared, self.gate):
            if part is not None:
                yield from part.parameters()
