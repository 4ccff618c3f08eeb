"""Attention as one operator: its implementation, what it leaves out, and what its kernel computes again."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flopwatch.trace.api import trace, trace_model

B, H, G, Q, K, E, V = 2, 4, 2, 5, 6, 8, 3
SCORES = 2 * B * H * Q * K * E  # [B,H,Q,E] @ [B,H,E,K]


def _qkv(device, *, kv_heads=H, width=E):
    shapes = ((B, H, Q, E), (B, kv_heads, K, E), (B, kv_heads, K, width))
    return [torch.ones(shape, device=device, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("implementation", "in_kernel"), [("flash", SCORES), ("math", 0)])
@pytest.mark.parametrize("kv_heads", [H, G])
def test_forward_has_two_matmuls_and_backward_four(device, implementation, in_kernel, kv_heads):
    """Grouped heads count with all query heads; a fused kernel's fifth matmul is in a bucket of its own."""
    q, k, v = _qkv(device, kv_heads=kv_heads)
    traced = trace(
        lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=kv_heads != H).sum().backward(),
        attention=implementation,
    )
    assert (traced.forward.total, traced.backward.total) == (2 * SCORES, 4 * SCORES)
    assert traced.in_kernel.total == in_kernel
    assert traced.hardware_total == 6 * SCORES + in_kernel
    ((call, n),) = traced.attention.items()
    assert (call.implementation, n, call.is_grouped) == (implementation, 1, kv_heads == G)
    assert traced.by_operator()["scaled_dot_product_attention"].forward == 2 * SCORES


def test_values_of_another_width_count_their_own_width():
    """Latent attention: keys of 8, values of 3."""
    q, k, v = _qkv("meta", width=V)
    traced = trace(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward(), attention="flash")
    values = SCORES // E * V
    assert (traced.forward.total, traced.backward.total) == (SCORES + values, 2 * (SCORES + values))
    assert traced.in_kernel.total == SCORES


def test_flash_that_torch_cannot_give_is_said_to_be_math():
    """A CPU kernel takes no values of another width: math runs, and a note says so."""
    q, k, v = _qkv("cpu", width=V)
    traced = trace(lambda: F.scaled_dot_product_attention(q, k, v), attention="flash")
    assert [call.implementation for call in traced.attention] == ["math"]
    assert traced.notes == (f"attention=flash: torch has no fused kernel for queries {[B, H, Q, E]} here, math ran",)


def test_without_gradients_there_is_nothing_to_compute_again():
    """A forward alone has no in-kernel work."""
    q, k, v = (tensor.detach() for tensor in _qkv("meta"))
    traced = trace(lambda: F.scaled_dot_product_attention(q, k, v))
    assert (traced.total, traced.in_kernel.total) == (2 * SCORES, 0)


def test_the_causal_part_stands_beside_the_full_count():
    """Seven queries and keys: 28 of 49 scores are visible; the count itself is full."""
    x = torch.ones(B, H, 7, E, device="meta")
    traced = trace(lambda: F.scaled_dot_product_attention(x, x, x, is_causal=True))
    ((call, _),) = traced.attention.items()
    assert call.is_causal
    assert traced.total == call.forward_flops == 4 * B * H * 49 * E
    assert call.visible_flops == 4 * B * H * 28 * E


def test_a_mask_is_noted_with_its_shape():
    """What a mask hides is not known without its values: it is said that there is one."""
    q, k, v = _qkv("meta")
    mask = torch.ones(Q, K, dtype=torch.bool, device="meta")
    ((call, _),) = trace(lambda: F.scaled_dot_product_attention(q, k, v, mask)).attention.items()
    assert (call.mask, call.mask_dtype, call.is_causal) == ((Q, K), "bool", False)
    assert call.visible_flops == call.forward_flops


def test_equal_calls_of_several_layers_are_one_kind():
    """Three layers of equal attention are three calls of one kind."""
    x = torch.ones(B, H, 7, E, device="meta")
    traced = trace(lambda: [F.scaled_dot_product_attention(x, x, x) for _ in range(3)])
    assert list(traced.attention.values()) == [3]


def test_auto_follows_the_kernels_that_are_switched_on():
    """`sdpa_kernel(MATH)` in the user's own code leaves only the plain way, on meta too."""
    q, k, v = _qkv("meta")

    def step():
        with sdpa_kernel(SDPBackend.MATH):
            F.scaled_dot_product_attention(q, k, v).sum().backward()

    assert [call.implementation for call in trace(step).attention] == ["math"]
    assert trace(step).in_kernel.total == 0


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_multihead_attention_module_is_seen_through(device):
    """nn.MultiheadAttention calls attention out of a function's sight: still one attention operator."""
    model = nn.MultiheadAttention(8, 2, batch_first=True, device=device)
    x = torch.ones(3, 5, 8, device=device)
    traced = trace_model(model, (x, x, x), {"need_weights": False}, phase="train", tensors="real")
    assert traced.forward.total == 2 * 15 * 8 * 8 * 4 + 4 * 3 * 5 * 5 * 8
    assert [call.implementation for call in traced.attention] == ["flash"]


def test_flash_keeps_no_score_matrix_and_math_does():
    """64 heads-times-batch, 128 x 128 scores in fp32 are 4 MiB: the fused kernel's peak stays below one of them."""
    x = torch.ones(8, 8, 128, 2, device="meta", requires_grad=True)
    scores_bytes = 8 * 8 * 128 * 128 * 4

    def step():
        F.scaled_dot_product_attention(x, x, x).sum().backward()

    assert trace(step, attention="flash").memory.peak_bytes < scores_bytes
    assert trace(step, attention="math").memory.peak_bytes > 2 * scores_bytes
