"""Attention on tensors without data: torch's scaled_dot_product_attention, by the kernel that would run."""

from __future__ import annotations

from flopwatch.cost.eager.arith import add, from_result, scale
from flopwatch.cost.eager.engine import Eager, pointwise
from flopwatch.cost.eager.matmul import cast, matmul
from flopwatch.cost.eager.tensor import Gradients, Saved, Tensor, dense_strides, one
from flopwatch.cost.eager.views import clone, expand, reshape, to, transpose


def has_flash(e: Eager, q: Tensor, v: Tensor, mask: Tensor | None) -> bool:
    """Whether torch has a kernel without scores for this: equal widths on a CPU, and there no mask for each head."""
    if e.device_type == "cuda":
        return True
    return q.shape[-1] == v.shape[-1] and (mask is None or len(mask.shape) == 2)


def flash_attention(e: Eager, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """[B,H,Q,E], [B,G,K,E], [B,G,K,F] -> [B,H,Q,F] without the scores.

    Saves q, k, v, the mask, the result and the row sums (fp32).
    """
    q, k, v = cast(e, q), cast(e, k), cast(e, v)
    if mask is not None and mask.dtype == "bool":
        mask = pointwise(e, "where", mask, dtype=q.dtype)
    e.tape.op = "flash_attention"
    out = e.empty(
        (*q.shape[:-1], v.shape[-1]), q.dtype, strides=dense_strides(q) if q.shape[-1] == v.shape[-1] else None
    )
    row_sums = e.empty(q.shape[:-1], "fp32")
    like = tuple((x.shape, dense_strides(x)) for x in (q, k, v))

    def backward(grads: Gradients, _: Saved) -> Gradients:
        dtype = one(grads[0]).dtype
        e.tape.op = "flash_attention_backward"
        return tuple(e.empty(shape, dtype, strides=strides) for shape, strides in like)

    e.record("flash_attention", out, (q, k, v), backward, (q, k, v, mask, out, row_sums))
    return out


def math_attention(e: Eager, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, is_causal: bool) -> Tensor:
    """The same out of single operators; saves the softmax of all scores, and computes bf16 and fp16 in fp32.

    Follows torch's _scaled_dot_product_attention_math; its local names live to its end, and it makes the softmax in
    the dtype of the queries as a second result that nobody uses.
    """
    q, k, v = cast(e, q), cast(e, k), cast(e, v)
    with e.autocast(None):  # torch casts what goes into attention, not what happens inside
        return _math(e, q, k, v, mask, is_causal=is_causal)


def _math(e: Eager, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, is_causal: bool) -> Tensor:
    dtype = q.dtype
    q_wide, k_wide, v_wide = (to(e, x, "fp32") if dtype in {"bf16", "fp16"} else x for x in (q, k, v))
    scaled = scale(e, q_wide)
    if is_causal:
        mask = _causal_mask(e, q.shape[-2], k.shape[-2], scaled.dtype)
    elif mask is not None and mask.dtype == "bool":
        mask = pointwise(e, "where", mask, dtype=scaled.dtype)
    groups = q.shape[1] // k.shape[1]
    k_all, v_all = (
        (repeat_heads(e, k_wide, groups), repeat_heads(e, v_wide, groups)) if groups > 1 else (k_wide, v_wide)
    )
    scores = matmul(e, scaled, scale(e, transpose(e, k_all, 2, 3)))
    if mask is not None and not e.sees_kernels:  # added in place, except where a dispatch mode looks on
        scores = add(e, scores, mask)
    weights = _safe_softmax(e, scores) if mask is not None else from_result(e, "softmax", scores)
    del scores
    unused = to(e, weights, dtype)
    mixed = to(e, matmul(e, weights, v_all), dtype)
    del unused, k_wide, v_wide  # names that torch has until here
    return mixed


def _safe_softmax(e: Eager, scores: Tensor) -> Tensor:
    """Softmax that gives 0 for a row without an allowed key, which it looks for in a mask of all scores."""
    result = from_result(e, "softmax", scores)
    if e.sees_kernels:
        masked = pointwise(e, "isneginf", scores, dtype="bool")
        del masked
    return result


def _causal_mask(e: Eager, n_queries: int, n_keys: int, dtype: str) -> Tensor:
    e.tape.op = "ones"
    allowed = pointwise(e, "tril", e.empty((n_queries, n_keys), "bool"))
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
