"""The parts that only some networks have: multi-head latent attention and mixtures of experts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flopwatch.model.spec import MLASpec, ModelSpec, MoESpec
from flopwatch.reference.cache import LayerCache
from flopwatch.reference.layers import AttentionCore, FeedForward, Implementation, Norm, Style, rotate


class LatentAttention(nn.Module):
    """Multi-head latent attention (DeepSeek-V2): low-rank queries, keys and values, one shared rotary key."""

    def __init__(
        self, spec: ModelSpec, mla: MLASpec, *, window: int | None, style: Style, implementation: Implementation
    ) -> None:
        super().__init__()
        d_query = spec.n_heads * (mla.d_nope + mla.d_rope)
        bias = spec.qkv_bias
        self.q = None if mla.q_rank else nn.Linear(spec.d_model, d_query, bias=False)
        self.q_down = nn.Linear(spec.d_model, mla.q_rank, bias=bias) if mla.q_rank else None
        self.q_norm = Norm(mla.q_rank, kind="rmsnorm", has_bias=False, style=style) if mla.q_rank else None
        self.q_up = nn.Linear(mla.q_rank, d_query, bias=False) if mla.q_rank else None
        self.kv_down = nn.Linear(spec.d_model, mla.kv_rank + mla.d_rope, bias=bias)
        self.kv_norm = Norm(mla.kv_rank, kind="rmsnorm", has_bias=False, style=style)
        self.kv_up = nn.Linear(mla.kv_rank, spec.n_heads * (mla.d_nope + mla.d_value), bias=False)
        self.out = nn.Linear(spec.n_heads * mla.d_value, spec.d_model, bias=spec.out_bias)
        self.core = AttentionCore(spec, window=window, style=style, implementation=implementation)
        self.mla = mla
        self.n_heads = spec.n_heads

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """[B, T, D] -> [B, T, D]; the cache holds whole keys and values, not their low-rank form."""
        mla = self.mla
        start = 0 if cache is None else cache.length
        q = self._heads(self._queries(x))
        q = torch.cat((q[..., : mla.d_nope], rotate(q[..., mla.d_nope :], start)), dim=-1)
        latent, k_rope = self.kv_down(x).split((mla.kv_rank, mla.d_rope), dim=-1)
        k_nope, v = self._heads(self.kv_up(self.kv_norm(latent))).split((mla.d_nope, mla.d_value), dim=-1)
        k_rope = rotate(k_rope.unsqueeze(1), start).expand(-1, self.n_heads, -1, -1)
        k = torch.cat((k_nope, k_rope), dim=-1)
        if cache is not None:
            k, v = cache.append(k, v)
        return self.out(self.core(q, k, v))

    def _queries(self, x: Tensor) -> Tensor:
        if self.q is not None:
            return self.q(x)
        assert self.q_down is not None
        assert self.q_norm is not None
        assert self.q_up is not None
        return self.q_up(self.q_norm(self.q_down(x)))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # [B,T,H*E] -> [B,H,T,E]


class MixtureOfExperts(nn.Module):
    """Each token passes its `experts_per_token` best experts, and the shared ones.

    On tensors without data nobody knows which expert a token takes: then the rows are dealt out evenly. The rows
    of all experts together are the same, so FLOPs are exact either way.
    """

    def __init__(self, spec: ModelSpec, moe: MoESpec, *, style: Style) -> None:
        super().__init__()
        self.router = nn.Linear(spec.d_model, moe.n_experts, bias=moe.router_bias)
        self.experts = nn.ModuleList(
            FeedForward(spec, moe.d_ff_expert, has_bias=moe.expert_bias, style=style) for _ in range(moe.n_experts)
        )
        has_shared = moe.n_shared_experts > 0
        self.shared = FeedForward(spec, moe.d_ff_shared, has_bias=False, style=style) if has_shared else None
        self.shared_gate = nn.Linear(spec.d_model, 1, bias=False) if moe.shared_gate else None
        self.moe = moe

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        rows = x.flatten(0, -2)  # [R, D]
        k = self.moe.experts_per_token
        weights, chosen = torch.softmax(self.router(rows), dim=-1).topk(k, dim=-1)  # [R, k]
        order = chosen.flatten().argsort()
        sent = rows[order // k].split(self._counts(chosen))
        done = torch.cat([expert(part) for expert, part in zip(self.experts, sent, strict=True)])
        done = done * weights.flatten()[order].unsqueeze(-1)
        mixed = torch.zeros_like(rows).index_add(0, order // k, done.to(rows.dtype))
        if self.shared is not None:
            shared = self.shared(rows)
            mixed = mixed + (shared if self.shared_gate is None else torch.sigmoid(self.shared_gate(rows)) * shared)
        return mixed.view_as(x)

    def _counts(self, chosen: Tensor) -> list[int]:
        """How many rows each expert gets."""
        n_experts = self.moe.n_experts
        if _has_data(chosen):
            counts: list[int] = torch.bincount(chosen.flatten(), minlength=n_experts).tolist()
            return counts
        each, more = divmod(chosen.numel(), n_experts)
        return [each + (expert < more) for expert in range(n_experts)]


def _has_data(tensor: Tensor) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    return not (tensor.is_meta or isinstance(tensor, FakeTensor))
