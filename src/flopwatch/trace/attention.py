"""Attention as one operator: which call it was, and the implementation that runs it."""

from __future__ import annotations

import dataclasses
from math import prod
from typing import Final, Literal

import torch

from flopwatch.trace.formulas import attention_work

Implementation = Literal["auto", "math", "flash"]
OPERATOR: Final = "scaled_dot_product_attention"
FUSED: Final = (
    "aten._scaled_dot_product_flash_attention",
    "aten._scaled_dot_product_efficient_attention",
    "aten._scaled_dot_product_cudnn_attention",
    "aten._scaled_dot_product_fused_attention_overrideable",
    "aten._flash_attention",
    "aten._efficient_attention",
    "flex_attention",
)


@dataclasses.dataclass(kw_only=True, slots=True, unsafe_hash=True)
class AttentionCall:
    """One kind of attention call: shapes [..., H, T, E] of queries, keys and values, and which scores it leaves out.

    `implementation` is what ran: `flash` (any fused kernel: no score matrix in memory, scores computed again in
    backward) or `math`; None until it has run.
    """

    query: tuple[int, ...]
    key: tuple[int, ...]
    value: tuple[int, ...]
    is_causal: bool
    mask: tuple[int, ...] | None
    mask_dtype: str | None
    dropout_p: float
    implementation: str | None = None

    @property
    def is_grouped(self) -> bool:
        """Whether several query heads share a key-value head."""
        return len(self.query) > 2 and self.query[-3] != self.key[-3]

    @property
    def forward_flops(self) -> int:
        """Matmul FLOPs of one call, all scores computed."""
        return attention_work(self.query, self.key, self.value).flops

    @property
    def visible_flops(self) -> int:
        """The part of `forward_flops` whose scores the causal flag leaves visible, the diagonal included."""
        if not self.is_causal:
            return self.forward_flops
        n_queries, n_keys = self.query[-2], self.key[-2]
        n_square = min(n_queries, n_keys)
        visible = n_square * (n_square + 1) // 2 + (n_queries - n_square) * n_keys
        return 2 * prod(self.query[:-2]) * visible * (self.query[-1] + self.value[-1])


def may_fuse() -> bool:
    """Whether `torch.nn.attention.sdpa_kernel` leaves any fused kernel to choose."""
    switches = torch.backends.cuda
    return any((switches.flash_sdp_enabled(), switches.mem_efficient_sdp_enabled(), switches.cudnn_sdp_enabled()))


def fits_fused(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, *, is_grouped: bool
) -> bool:
    """Whether some fused kernel takes this call: four dimensions that need no broadcasting, no gradient for the mask.

    `is_grouped`: the caller allows several query heads to share a key-value head (enable_gqa).
    """
    if not (query.dim() == key.dim() == value.dim() == 4 and query.dtype == key.dtype == value.dtype):
        return False
    is_same_width, is_same_heads = query.shape[-1] == value.shape[-1], query.shape[1] == key.shape[1]
    return (
        query.shape[0] == key.shape[0]
        and key.shape[:3] == value.shape[:3]
        and query.numel() > 0
        and key.numel() > 0
        and (is_same_heads or (is_grouped and is_same_width and query.shape[1] % key.shape[1] == 0))
        and (mask is None or not mask.requires_grad)
    )


def fused_stand_in(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    is_causal: bool,  # noqa: FBT001
    scale: float | None,
) -> torch.Tensor:
    """The result of a fused kernel on tensors without data: what it keeps is queries, keys, values, result, logsumexp.

    torch would write the whole score matrix out there, which no fused kernel does.
    """
    if query.shape[-1] == value.shape[-1]:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        result: torch.Tensor = flash(query, key, value, 0.0, is_causal, attn_mask=mask, scale=scale)[0]
        return result
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    attended: torch.Tensor = efficient(query, key, value, mask, needs_grad, 0.0, is_causal, scale=scale)[0]
    return attended
