"""The reference network: a decoder-only transformer built from a ModelSpec."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flopwatch.errors import SpecError
from flopwatch.model.spec import ModelSpec
from flopwatch.reference.cache import LayerCache, make_cache
from flopwatch.reference.layers import Attention, FeedForward, Implementation, Norm, Style, spec_norm
from flopwatch.reference.variants import LatentAttention, MixtureOfExperts

DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


class Block(nn.Module):
    """One layer: attention and FFN (or experts) around the residual stream, in series or in parallel."""

    def __init__(self, spec: ModelSpec, layer: int, *, style: Style, implementation: Implementation) -> None:
        super().__init__()
        window = spec.window if spec.is_windowed(layer) else None
        self.attention: Attention | LatentAttention
        if spec.mla is None:
            self.attention = Attention(spec, window=window, style=style, implementation=implementation)
        else:
            self.attention = LatentAttention(spec, spec.mla, window=window, style=style, implementation=implementation)
        self.moe = MixtureOfExperts(spec, spec.moe, style=style) if spec.moe and spec.is_moe(layer) else None
        self.ffn = FeedForward(spec, spec.d_ff, has_bias=spec.ffn_bias, style=style) if self.moe is None else None
        norms: list[Norm | None] = [spec_norm(spec, style) for _ in range(spec.norms_per_layer)]
        norms += [None] * (4 - len(norms))
        self.attention_norm, self.ffn_norm, self.after_attention_norm, self.after_ffn_norm = norms
        self.is_parallel = spec.parallel_block

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        normed = _apply(self.attention_norm, x)
        mixed = _apply(self.after_attention_norm, self.attention(normed, cache))
        if self.is_parallel:
            second = normed if self.ffn_norm is None else self.ffn_norm(x)
            return x + mixed + _apply(self.after_ffn_norm, self._feed_forward(second))
        x = x + mixed
        return x + _apply(self.after_ffn_norm, self._feed_forward(_apply(self.ffn_norm, x)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        part = self.ffn if self.ffn is not None else self.moe
        assert part is not None
        return part(x)


def _apply(norm: nn.Module | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


class Reference(nn.Module):
    """Token ids [B, T] (int64) -> logits [B, T, V]."""

    def __init__(
        self,
        spec: ModelSpec,
        *,
        style: Style = "fused",
        implementation: Implementation = "auto",
        recompute: Literal["none", "full"] = "none",
    ) -> None:
        super().__init__()
        _check_can_build(spec, style)
        d = spec.d_model
        self.spec = spec
        self.style = style
        self.recompute = recompute
        self.tokens = nn.Embedding(spec.padded_vocab_size, spec.d_embed)
        has_table = spec.positions == "learned"
        self.positions = nn.Embedding(spec.max_seq_len + spec.n_extra_positions, d) if has_table else None
        is_narrow = spec.d_embed != d
        self.project_in = nn.Linear(spec.d_embed, d, bias=False) if is_narrow else None
        self.embedding_norm = spec_norm(spec, style) if spec.embedding_norm else None
        self.layers = nn.ModuleList(
            Block(spec, layer, style=style, implementation=implementation) for layer in range(spec.n_layers)
        )
        self.final_norm = spec_norm(spec, style) if spec.final_norm else None
        self.project_out = nn.Linear(d, spec.d_embed, bias=False) if is_narrow else None
        self.head = nn.Linear(spec.d_embed, spec.padded_vocab_size, bias=spec.head_bias)
        self.tie()

    def tie(self) -> None:
        """Make head and token table one parameter where the spec says so."""
        if self.spec.tied_head:
            self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        """All logits: [B, T] -> [B, T, V].

        The book's forward has names for the token embeddings and for what goes into its first layer, so both stay
        alive through all layers; the elementary style keeps them too, because they decide which batch fits.
        """
        tokens, x = self._embed(ids, start=0)
        kept = (tokens, x) if self.style == "elementary" else None
        del tokens
        for block in self.layers:
            if self.recompute == "full" and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        del kept
        return self._logits(x)

    def extend(self, ids: Tensor, cache: list[LayerCache]) -> Tensor:
        """Logits of the last token only, [B, T] -> [B, 1, V]; the cache is filled (prefill) or grown (decode)."""
        _, x = self._embed(ids, start=cache[0].length)
        for block, layer_cache in zip(self.layers, cache, strict=True):
            x = block(x, layer_cache)
        return self._logits(x[:, -1:])

    def make_cache(self, batch: int, capacity: int) -> list[LayerCache]:
        """An empty cache for `batch` sequences of at most `capacity` tokens, in the dtype of the weights."""
        spec, weight = self.spec, self.tokens.weight
        d_value = spec.d_head if spec.mla is None else spec.mla.d_value
        d_key = spec.d_head if spec.mla is None else spec.mla.d_nope + spec.mla.d_rope
        heads = (batch, spec.n_kv_heads if spec.mla is None else spec.n_heads, capacity)
        return make_cache(spec.n_layers, (*heads, d_key), (*heads, d_value), dtype=weight.dtype, device=weight.device)

    def _embed(self, ids: Tensor, *, start: int) -> tuple[Tensor, Tensor]:
        """The tokens' own embeddings, and what goes into the first layer."""
        tokens: Tensor = self.tokens(ids)
        x = tokens if self.project_in is None else self.project_in(tokens)
        if self.positions is not None:
            x = x + self.positions(torch.arange(start, start + ids.shape[1], device=ids.device))
        return tokens, _apply(self.embedding_norm, x)

    def _logits(self, x: Tensor) -> Tensor:
        x = _apply(self.final_norm, x)
        if self.project_out is not None:
            x = self.project_out(x)
        return self.head(x)


def build_model(
    spec: ModelSpec,
    *,
    ops: Style = "fused",
    attention: Implementation = "auto",
    recompute: Literal["none", "full"] = "none",
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Reference:
    """The network of `spec` with random weights on `device` (`meta`: without data), in training mode.

    Weights are drawn after the memory is there, in the wanted dtype, so that no second copy ever exists.
    """
    with torch.device("meta"):
        model = Reference(spec, style=ops, implementation=attention, recompute=recompute)
    model.to(dtype)
    if torch.device(device).type == "meta":
        return model
    buffers = {name: buffer.shape for name, buffer in model.named_buffers()}
    model.to_empty(device=device)
    model.tie()
    generator = torch.Generator(device=device).manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.02, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        for name, buffer in model.named_buffers():
            assert name.endswith("mask"), f"{name} is not a mask: {buffers[name]}"
            buffer.copy_(torch.ones_like(buffer).triu_(1))
    return model


def _check_can_build(spec: ModelSpec, style: Style) -> None:
    """Refuse what the closed forms know but this network does not have."""
    missing = {
        "n_mtp_layers": spec.n_mtp_layers > 0,
        "attention_sinks": spec.attention_sinks,
        "norms_per_layer": spec.norms_per_layer not in {1, 2, 4},
        "norm_affine": not spec.norm_affine,
        "moe": spec.moe is not None and spec.moe.shared_bias,
    }
    for field, is_missing in missing.items():
        if is_missing:
            raise SpecError(
                f"the reference network ({style}) has no {field}={spec.to_dict()[field]}",
                hint="closed forms cover it (count, mfu); to run it give the model itself as package.module:factory",
            )
