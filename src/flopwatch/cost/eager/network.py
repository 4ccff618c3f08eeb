"""The reference network (reference/model.py) on tensors without data: the same operators in the same order.

What Python keeps alive there, a local name keeps alive here. Two things must stay equal to the reference: the order of
the parameters (the optimizer walks through it) and the names of the modules (the peak is reported with them).
"""

from __future__ import annotations

from collections.abc import Iterator

from flopwatch.cost.eager.arith import add
from flopwatch.cost.eager.attention import Attention, Cache
from flopwatch.cost.eager.engine import Eager
from flopwatch.cost.eager.layers import FeedForward, Linear, Norm, Style
from flopwatch.cost.eager.reduce import embedding
from flopwatch.cost.eager.tensor import Tensor
from flopwatch.cost.eager.variants import LatentAttention, MixtureOfExperts
from flopwatch.model.spec import ModelSpec


def _norm(e: Eager, spec: ModelSpec, style: Style, name: str) -> Norm:
    return Norm(e, style, name, spec.d_model, kind=spec.norm, bias=spec.norm_bias)


class Block:
    """One layer."""

    def __init__(self, e: Eager, spec: ModelSpec, style: Style, layer: int) -> None:
        self.e = e
        self.name = name = f"layers.{layer}"
        window = spec.window if spec.is_windowed(layer) else None
        self.attention: Attention | LatentAttention
        if spec.mla is None:
            self.attention = Attention(e, spec, style, f"{name}.attention", window=window)
        else:
            self.attention = LatentAttention(e, spec, spec.mla, style, f"{name}.attention", window=window)
        self.feed_forward: FeedForward | MixtureOfExperts
        if spec.moe is not None and spec.is_moe(layer):
            self.feed_forward = MixtureOfExperts(e, spec, spec.moe, style, f"{name}.moe")
        else:
            self.feed_forward = FeedForward(e, spec, style, f"{name}.ffn", spec.d_ff, bias=spec.ffn_bias)
        names = ("attention_norm", "ffn_norm", "after_attention_norm", "after_ffn_norm")
        norms: list[Norm | None] = [_norm(e, spec, style, f"{name}.{n}") for n in names[: spec.norms_per_layer]]
        norms += [None] * (4 - len(norms))
        self.attention_norm, self.ffn_norm, self.after_attention_norm, self.after_ffn_norm = norms
        self.is_parallel = spec.parallel_block

    def __call__(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        with self.e.module(self.name):
            return self._run(x, cache)

    def _run(self, x: Tensor, cache: Cache | None) -> Tensor:
        normed = _apply(self.attention_norm, x)
        mixed = _apply(self.after_attention_norm, self.attention(normed, cache))
        if self.is_parallel:
            second = normed if self.ffn_norm is None else self.ffn_norm(x)
            both = add(self.e, x, mixed)
            return add(self.e, both, _apply(self.after_ffn_norm, self.feed_forward(second)))
        inner = add(self.e, x, mixed)
        del x
        return add(self.e, inner, _apply(self.after_ffn_norm, self.feed_forward(_apply(self.ffn_norm, inner))))

    def parameters(self) -> Iterator[Tensor]:
        """In the order in which the module registers them."""
        yield from self.attention.parameters()
        yield from self.feed_forward.parameters()
        for norm in (self.attention_norm, self.ffn_norm, self.after_attention_norm, self.after_ffn_norm):
            if norm is not None:
                yield from norm.parameters()


def _apply(norm: Norm | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


class Network:
    """Token ids [B, T] -> logits [B, T, V]."""

    def __init__(self, e: Eager, spec: ModelSpec, style: Style, *, has_recompute: bool) -> None:
        self.e = e
        self.spec = spec
        self.has_recompute = has_recompute
        self.keeps_embeddings = style.is_elementary
        d = spec.d_model
        self.activation_dtype = style.activation_dtype
        self.tokens = style.parameter(e, (spec.padded_vocab_size, spec.d_embed), "tokens")
        self.positions: Tensor | None = None
        if spec.positions == "learned":
            rows = spec.max_seq_len + spec.n_extra_positions
            self.positions = style.parameter(e, (rows, d), "positions")
        is_narrow = spec.d_embed != d
        self.project_in = Linear(e, style, "project_in", spec.d_embed, d, bias=False) if is_narrow else None
        self.embedding_norm = _norm(e, spec, style, "embedding_norm") if spec.embedding_norm else None
        self.layers = [Block(e, spec, style, layer) for layer in range(spec.n_layers)]
        self.final_norm = _norm(e, spec, style, "final_norm") if spec.final_norm else None
        self.project_out = Linear(e, style, "project_out", d, spec.d_embed, bias=False) if is_narrow else None
        tied = self.tokens if spec.tied_head else None
        self.head = Linear(e, style, "head", spec.d_embed, spec.padded_vocab_size, bias=spec.head_bias, weight=tied)

    def __call__(self, ids: Tensor) -> Tensor:
        """All logits; `reference/model.py` says what an elementary network keeps through its layers."""
        tokens, x = self._embed(ids)
        kept = (tokens, x) if self.keeps_embeddings else None
        del tokens
        for block in self.layers:
            x = self.e.checkpoint(block, x) if self.has_recompute else block(x)
        del kept
        return self._logits(x)

    def extend(self, ids: Tensor, caches: list[Cache]) -> Tensor:
        """Logits of the last token only; the caches are filled."""
        _, x = self._embed(ids)
        for block, cache in zip(self.layers, caches, strict=True):
            x = block(x, cache)
        last = x.alias((x.shape[0], 1, x.shape[2]), x.strides)
        return self._logits(last)

    def make_caches(self, batch: int, capacity: int, *, length: int, dtype: str) -> list[Cache]:
        """One cache a layer with room for `capacity` tokens, `length` of them filled."""
        spec = self.spec
        d_key = spec.d_head if spec.mla is None else spec.mla.d_nope + spec.mla.d_rope
        d_value = spec.d_head if spec.mla is None else spec.mla.d_value
        heads = (batch, spec.n_kv_heads if spec.mla is None else spec.n_heads, capacity)
        self.e.tape.op = "kv_cache"
        return [Cache(self.e, (*heads, d_key), (*heads, d_value), dtype, length) for _ in self.layers]

    def _embed(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens' own embeddings, and what goes into the first layer."""
        e = self.e
        with e.module("tokens"):
            tokens = embedding(e, self.tokens, ids, dtype=self.activation_dtype)
        x = tokens if self.project_in is None else self.project_in(tokens)
        if self.positions is not None:
            e.tape.op = "arange"
            with e.module("positions"):
                rows = embedding(e, self.positions, e.empty((ids.shape[1],), "int64"), dtype=self.activation_dtype)
            x = add(e, x, rows)
        return tokens, _apply(self.embedding_norm, x)

    def _logits(self, x: Tensor) -> Tensor:
        x = _apply(self.final_norm, x)
        if self.project_out is not None:
            x = self.project_out(x)
        logits = self.head(x)
        return logits.as_part("logits")

    def parameters(self) -> Iterator[Tensor]:
        """Each once, in the order in which the module registers them."""
        yield self.tokens
        if self.positions is not None:
            yield self.positions
        for part in (self.project_in, self.embedding_norm, *self.layers, self.final_norm, self.project_out, self.head):
            if part is not None:
                yield from (p for p in part.parameters() if p is not self.tokens)
