"""Named differences: where a library's own model does other matmuls than the closed form counts, and exactly how many.

Each was seen in a trace of transformers' own models (5.23, and 4.50 where said) and its size checked to the integer.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Final

from flopwatch.cost.flops import forward_flops, head_weights
from flopwatch.model.params import attention_weights, ffn_weights
from flopwatch.model.spec import ModelSpec
from flopwatch.workload import Workload


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """FLOPs of a forward pass that a traced model does beyond the closed form (below 0: that it does not do)."""

    name: str
    flops: int
    reason: str


def known_differences(spec: ModelSpec, workload: Workload) -> tuple[Difference, ...]:
    """Every named difference that this network can show under this workload, none of size 0."""
    found = (Difference(name=name, flops=size(spec, workload), reason=reason) for name, reason, size in _DIFFERENCES)
    return tuple(difference for difference in found if difference.flops)


def explain_gap(spec: ModelSpec, workload: Workload, gap_flops: int) -> tuple[Difference, ...] | None:
    """The named differences that add up to `gap_flops` (forward trace less closed form) exactly; None when none do.

    The fewest are taken, so a gap that one of them explains is not split into several.
    """
    known = known_differences(spec, workload)
    for n in range(len(known) + 1):
        for some in itertools.combinations(known, n):
            if sum(difference.flops for difference in some) == gap_flops and _are_compatible(some):
                return some
    return None


def _are_compatible(some: Sequence[Difference]) -> bool:
    """Whether no two of them are sizes of the same thing."""
    subjects = [difference.name.partition(",")[0] for difference in some]
    return len(set(subjects)) == len(subjects)


def _window_cache(spec: ModelSpec, workload: Workload) -> int:
    """A layer with a window keeps `window` keys, so one new token meets no more of them."""
    if workload.phase != "decode" or spec.window is None:
        return 0
    n_dropped = max(0, workload.seq_len - spec.window)
    n_pairs = workload.batch * spec.n_heads * n_dropped * spec.n_windowed_layers
    d_value = spec.d_head if spec.mla is None else spec.mla.d_value
    return -2 * n_pairs * (spec.d_head + d_value)  # scores and values


def _latents_again(spec: ModelSpec, workload: Workload) -> int:
    """The latents of all earlier tokens go through the up-projection again for each new one."""
    if workload.phase != "decode" or spec.mla is None:
        return 0
    n_rows = workload.batch * (workload.seq_len - 1)
    return 2 * n_rows * attention_weights(spec)["kv_up"] * spec.n_layers  # [B(K-1),R] @ [R,H(N+V)]


def _head_projection(spec: ModelSpec, workload: Workload) -> int:
    """OPT's projection back to the embedding's width stands before the choice of the last token."""
    if workload.phase != "prefill" or spec.d_embed == spec.d_model:
        return 0
    return 2 * workload.batch * (workload.seq_len - 1) * spec.d_model * spec.d_embed  # [B(T-1),D] @ [D,E]


def _all_logits(spec: ModelSpec, workload: Workload) -> int:
    """Logits of every position, not of the last alone."""
    if workload.phase != "prefill":
        return 0
    return 2 * workload.batch * (workload.seq_len - 1) * head_weights(spec).total


def _experts_unseen(spec: ModelSpec, workload: Workload) -> int:
    """The experts' matmuls in an operator that the counter has no formula for (torch's own: _grouped_mm)."""
    if spec.moe is None:
        return 0
    active = spec.moe.experts_per_token * sum(ffn_weights(spec, spec.moe.d_ff_expert).values())
    return -2 * workload.n_tokens * active * spec.n_moe_layers


def _no_mtp(spec: ModelSpec, workload: Workload) -> int:
    """The multi-token-prediction layers, which transformers does not build."""
    return -forward_flops(spec, workload).only("mtp").total


def _no_padding(spec: ModelSpec, workload: Workload) -> int:
    """The head's rows of padding, in a model built without them."""
    n_rows = workload.batch * workload.n_accumulate * workload.n_logit_positions
    return -2 * n_rows * spec.d_embed * (spec.padded_vocab_size - spec.vocab_size)


def _rotary(numerator: int, denominator: int) -> Callable[[ModelSpec, Workload], int]:
    """Position times frequency as a matmul with one column: [1,E/2,1] @ [1,1,T]; n/m of the head is rotated."""

    def size(spec: ModelSpec, workload: Workload) -> int:
        if spec.positions != "rope":
            return 0
        width = spec.d_head if spec.mla is None else spec.mla.d_rope
        return 2 * (width * numerator // denominator // 2) * workload.n_queries

    return size


_ROTARY: Final = "transformers 4 multiplies positions by frequencies in a matmul"
_DIFFERENCES: Final[tuple[tuple[str, str, Callable[[ModelSpec, Workload], int]], ...]] = (
    ("sliding-window cache", "windowed layers keep only the window's keys in the cache", _window_cache),
    (
        "latents expanded again",
        "transformers makes keys and values of all cached latents at each token",
        _latents_again,
    ),
    ("head projection of every position", "transformers projects before it takes the last position", _head_projection),
    ("logits of every position", "the model was called without logits_to_keep=1", _all_logits),
    ("experts not counted", "the counter has no formula for the experts' grouped matmul", _experts_unseen),
    ("no multi-token prediction", "transformers builds the main model only", _no_mtp),
    ("no vocabulary padding", "the model was built with vocab_size rows", _no_padding),
    ("rotary frequencies", _ROTARY, _rotary(1, 1)),
    ("rotary frequencies, two tables", f"{_ROTARY}, once for each kind of layer", _rotary(2, 1)),
    ("rotary frequencies, half the head", _ROTARY, _rotary(1, 2)),
    ("rotary frequencies, a quarter of the head", _ROTARY, _rotary(1, 4)),
)
