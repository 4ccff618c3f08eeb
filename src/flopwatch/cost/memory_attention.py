"""Attention on tensors without data: torch's scaled_dot_product_attention, by the kernel that would run."""

from __future__ import annotations

from flopwatch.cost.memory_eager import Eager, Gradients, Tensor
from flopwatch.cost.memory_ops import (
    Saved,
    add,
    cast,
    clone,
    expand,
    from_result,
    matmul,
    one,
    pointwise,
    reshape,
    scale,
    to,
    transpose,
)


def flash_attention(e: Eager, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """[B,H,Q,E], [B,G,K,E], [B,G,K,F] -> [B,H,Q,F] without the scores.

    Saves q, k, v, the mask, the result and the row sums (fp32).
    """
    q, k, v = cast(e, q), cast(e, k), cast(e, v)
    e.tape.op = "flash_attention"
    batch, heads, n_queries, _ = q.shape
    out = _heads_inside(e, (batch, heads, n_queries, v.shape[-1]), q.dtype)
    row_sums = e.empty((batch, heads, n_queries), "fp32")
    shapes = (q.shape, k.shape, v.shape)

    def backward(grads: Gradients, _: Saved) -> Gradients:
        dtype = one(grads[0]).dtype
        e.tape.op = "flash_attention_backward"
        return tuple(_heads_inside(e, shape, dtype) for shape in shapes)

    e.record("flash_attention", out, (q, k, v), backward, (q, k, v, mask, out, row_sums))
    return out


def _heads_inside(e: Eager, shape: tuple[int, ...], dtype: str) -> Tensor:
    """[B,H,T,E] as the kernels write it: T outside H."""
    _, heads, length, width = shape
    strides = (length * heads * width, width, heads * width, 1)
    return e.empty(shape, dtype, strides=strides)


def math_attention(e: Eager, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, is_causal: bool) -> Tensor:
    """The same out of single operators; saves the softmax of all scores, and computes bf16 and fp16 in fp32."""
    dtype = e.autocast_dtype or q.dtype
    q, k, v = cast(e, q), cast(e, k), cast(e, v)
    with_fp32 = dtype in {"bf16", "fp16"} and e.device_type == "cpu"
    if with_fp32:
        q, k, v = to(e, q, "fp32"), to(e, k, "fp32"), to(e, v, "fp32")
    q = scale(e, q)
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    if is_causal:
        mask = _float_mask(e, n_queries, n_keys, q.dtype)
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = repeat_heads(e, k, groups), repeat_heads(e, v, groups)
    scores = matmul(e, q, scale(e, transpose(e, k, 2, 3)))
    if mask is not None:
        scores = add(e, scores, mask)
    weights = from_result(e, "softmax", scores)
    del scores
    weights = to(e, weights, v.dtype)
    mixed = matmul(e, weights, v)
    return to(e, mixed, dtype)


def _float_mask(e: Eager, n_queries: int, n_keys: int, dtype: str) -> Tensor:
    e.tape.op = "tril"
    allowed = e.empty((n_queries, n_keys), "bool")
    return pointwise(e, "where", allowed, dtype=dtype)


def repeat_heads(e: Eager, x: Tensor, groups: int) -> Tensor:
    """[B,G,T,E] -> [B,G*groups,T,E], each head copied `groups` times."""
    batch, heads, length, width = x.shape
    wide = (batch, heads, groups, length, width)
    one_more = reshape(e, x, (batch, heads, 1, length, width))
    copied = clone(e, expand(e, one_more, wide))
    return reshape(e, copied, (batch, heads * groups, length, width))


def flat_heads(e: Eager, x: Tensor) -> Tensor:
    """[B,H,Q,F] -> [B,Q,H*F]: a view where the kernel wrote the heads inside, else a copy."""
    batch, heads, n_queries, width = x.shape
    return reshape(e, transpose(e, x, 1, 2), (batch, n_queries, heads * width))
