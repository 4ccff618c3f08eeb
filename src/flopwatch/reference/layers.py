"""Norm, FFN and attention of the reference network, each in two styles with the same parameters.

`elementary` writes LayerNorm, GELU, masked scores and softmax out of single operations, as the GPT of the book
"Build a Large Language Model (From Scratch)" does; `fused` calls torch's own.
"""

from __future__ import annotations

import contextlib
import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flopwatch.model.spec import ModelSpec
from flopwatch.reference.cache import LayerCache

Style = Literal["elementary", "fused"]
Implementation = Literal["auto", "math", "flash"]


class Norm(nn.Module):
    """LayerNorm or RMSNorm over the last dimension."""

    def __init__(self, width: int, *, kind: str, has_bias: bool, style: Style) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if has_bias else None
        self.kind = kind
        self.style = style
        self.eps = 1e-5

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] -> [..., W]."""
        if self.style == "fused":
            if self.kind == "rmsnorm":
                return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
            return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        if self.kind == "rmsnorm":
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + self.eps))
        mean = x.mean(dim=-1, keepdim=True)
        variance = x.var(dim=-1, keepdim=True, unbiased=False)
        normed = self.weight * ((x - mean) / torch.sqrt(variance + self.eps))
        return normed if self.bias is None else normed + self.bias


def spec_norm(spec: ModelSpec, style: Style) -> Norm:
    """A norm over d_model as the spec wants it."""
    return Norm(spec.d_model, kind=spec.norm, has_bias=spec.norm_bias, style=style)


def gelu(x: Tensor, style: Style) -> Tensor:
    """GELU with the tanh approximation, as GPT-2 has it."""
    if style == "fused":
        return F.gelu(x, approximate="tanh")
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


class FeedForward(nn.Module):
    """Two matrices with GELU or ReLU, or three with a gate (SwiGLU, GeGLU)."""

    def __init__(self, spec: ModelSpec, d_ff: int, *, has_bias: bool, style: Style) -> None:
        super().__init__()
        self.gate = nn.Linear(spec.d_model, d_ff, bias=has_bias) if spec.is_gated else None
        self.up = nn.Linear(spec.d_model, d_ff, bias=has_bias)
        self.down = nn.Linear(d_ff, spec.d_model, bias=has_bias)
        self.kind = spec.ffn
        self.style = style

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        if self.gate is not None:
            gate = self.gate(x)
            hidden = (F.silu(gate) if self.kind == "swiglu" else gelu(gate, self.style)) * self.up(x)
        else:
            hidden = torch.relu(self.up(x)) if self.kind == "relu" else gelu(self.up(x), self.style)
        return self.down(hidden)


def rotate(x: Tensor, start: int) -> Tensor:
    """Rotary positions on [B, H, T, E], the first token at position `start`."""
    half = x.shape[-1] // 2
    frequencies = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    places = torch.arange(start, start + x.shape[-2], device=x.device, dtype=torch.float32)
    angles = places[:, None] * frequencies[None, :]  # [T, E/2]
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


class Attention(nn.Module):
    """Causal self-attention with grouped key-value heads, an optional window, and rotary, ALiBi or no positions."""

    def __init__(self, spec: ModelSpec, *, window: int | None, style: Style, implementation: Implementation) -> None:
        super().__init__()
        self.q = nn.Linear(spec.d_model, spec.d_query, bias=spec.qkv_bias)
        self.k = nn.Linear(spec.d_model, spec.d_kv, bias=spec.qkv_bias)
        self.v = nn.Linear(spec.d_model, spec.d_kv, bias=spec.qkv_bias)
        self.out = nn.Linear(spec.d_query, spec.d_model, bias=spec.out_bias)
        widths = {"none": None, "per_head": (spec.d_head, spec.d_head), "full": (spec.d_query, spec.d_kv)}[spec.qk_norm]
        self.q_norm = Norm(widths[0], kind="rmsnorm", has_bias=False, style=style) if widths else None
        self.k_norm = Norm(widths[1], kind="rmsnorm", has_bias=False, style=style) if widths else None
        self.spec = spec
        self.core = AttentionCore(spec, window=window, style=style, implementation=implementation)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """[B, T, D] -> [B, T, D]; with a cache the tokens come after those that it holds."""
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.q_norm is not None and self.k_norm is not None and self.spec.qk_norm == "full":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (part.unflatten(-1, (-1, self.spec.d_head)).transpose(1, 2) for part in (q, k, v))  # [B,H,T,E]
        if self.q_norm is not None and self.k_norm is not None and self.spec.qk_norm == "per_head":
            q, k = self.q_norm(q), self.k_norm(k)
        start = 0 if cache is None else cache.length
        if self.spec.positions == "rope":
            q, k = rotate(q, start), rotate(k, start)
        if cache is not None:
            k, v = cache.append(k, v)
        return self.out(self.core(q, k, v))


class AttentionCore(nn.Module):
    """Scores, softmax and values: [B,H,Q,E], [B,G,K,E], [B,G,K,F] -> [B,Q,H*F]."""

    def __init__(self, spec: ModelSpec, *, window: int | None, style: Style, implementation: Implementation) -> None:
        super().__init__()
        self.window = window
        self.style = style
        self.implementation = implementation
        self.has_alibi = spec.positions == "alibi"
        self.n_heads = spec.n_heads
        self.mask: Tensor | None = None
        if style == "elementary" and spec.positions == "learned":
            context = torch.ones(spec.max_seq_len, spec.max_seq_len)
            del self.mask
            self.register_buffer("mask", torch.triu(context, diagonal=1), persistent=False)  # as the book keeps it

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The last query sees all keys; the ones before it see one key less each."""
        mixed = self._elementary(q, k, v) if self.style == "elementary" else self._fused(q, k, v)
        return mixed.transpose(1, 2).flatten(2)

    def _elementary(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        groups = q.shape[1] // k.shape[1]
        if groups > 1:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        scores = q @ k.transpose(2, 3)
        n_queries, n_keys = scores.shape[-2:]
        mask = self._future(n_queries, n_keys, q.device)
        if self.window is not None:
            mask = mask | self._too_old(n_queries, n_keys, q.device)
        if self.has_alibi:
            scores = scores + self._alibi(n_queries, n_keys, q)
        scores.masked_fill_(mask, -torch.inf)
        weights = torch.softmax(scores / k.shape[-1] ** 0.5, dim=-1)
        return weights @ v

    def _fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n_queries, n_keys = q.shape[-2], k.shape[-2]
        is_causal = n_queries == n_keys and n_queries > 1
        mask: Tensor | None = None
        if self.window is not None or self.has_alibi or (not is_causal and n_queries > 1):
            seen = self._too_old(n_queries, n_keys, q.device) if self.window is not None else None
            future = self._future(n_queries, n_keys, q.device)
            mask = ~(future if seen is None else future | seen)
            if self.has_alibi:
                mask = torch.where(mask, self._alibi(n_queries, n_keys, q) / q.shape[-1] ** 0.5, -torch.inf)
            is_causal = False
        with self._kernel():
            return F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=q.shape[1] != k.shape[1]
            )

    def _kernel(self) -> contextlib.AbstractContextManager[None]:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        if self.implementation == "auto":
            return contextlib.nullcontext()
        wanted = SDPBackend.MATH if self.implementation == "math" else SDPBackend.FLASH_ATTENTION
        return sdpa_kernel(wanted)

    def _future(self, n_queries: int, n_keys: int, device: torch.device) -> Tensor:
        """Which keys lie after each query: from the book's table of the whole context where that is kept."""
        if self.mask is not None:
            return self.mask.bool()[n_keys - n_queries : n_keys, :n_keys]
        return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).triu(n_keys - n_queries + 1)

    def _too_old(self, n_queries: int, n_keys: int, device: torch.device) -> Tensor:
        """Which keys lie before each query's window of `window` tokens, its own included."""
        assert self.window is not None
        full = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
        return full.tril(n_keys - n_queries - self.window)

    def _alibi(self, n_queries: int, n_keys: int, like: Tensor) -> Tensor:
        """ALiBi's distance penalties [H, Q, K], before the division by the square root of the head width."""
        slopes = 2.0 ** (-8.0 * torch.arange(1, self.n_heads + 1, device=like.device) / self.n_heads)
        query_at = torch.arange(n_keys - n_queries, n_keys, device=like.device)
        distance = torch.arange(n_keys, device=like.device)[None, :] - query_at[:, None]
        return ((slopes[:, None, None] * distance) * like.shape[-1] ** 0.5).to(like.dtype)
