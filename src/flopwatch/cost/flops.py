"""Matmul FLOPs of a ModelSpec under a Workload, in closed form: exactly the multiply-adds that its matmuls do.

Every multiply-add is 2 FLOPs. Attention is counted in full (all scores), as a dense matmul computes them; how
others count is in `convention.py`. Elementwise work, norms and softmax are not matmul FLOPs and are not here.
"""

from __future__ import annotations

import dataclasses

from flopwatch.model.params import attention_weights, ffn_weights
from flopwatch.model.spec import ModelSpec
from flopwatch.tally import Tally
from flopwatch.workload import Workload


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StepFlops:
    """Matmul FLOPs of one step by part: what the task needs, and what the hardware does again.

    `forward` and `backward` are the model FLOPs (MFU). `recompute` is the checkpointed forward run again, and
    `in_kernel` the scores that a fused attention kernel computes again in its backward: both belong to HFU only.
    """

    forward: Tally
    backward: Tally
    recompute: Tally
    in_kernel: Tally

    @property
    def model_flops(self) -> int:
        """Forward and backward: what MFU divides by time and peak."""
        return self.forward.total + self.backward.total

    @property
    def hardware_flops(self) -> int:
        """Everything the hardware does: what HFU divides by time and peak."""
        return self.model_flops + self.recompute.total + self.in_kernel.total


def active_matmul_weights(spec: ModelSpec) -> Tally:
    """Matmul weights that one token passes, by part: all layers together, without the head."""
    parts: dict[str, int] = {}
    for name, n in attention_weights(spec).items():
        parts[f"layers.attention.{name}"] = n * spec.n_layers
    for name, n in ffn_weights(spec, spec.d_ff).items():
        parts[f"layers.ffn.{name}"] = n * spec.n_dense_layers
    if spec.moe is not None:
        moe, n_moe = spec.moe, spec.n_moe_layers
        parts["layers.moe.router"] = spec.d_model * moe.n_experts * n_moe
        for name, n in ffn_weights(spec, moe.d_ff_expert).items():
            parts[f"layers.moe.{name}"] = n * moe.experts_per_token * n_moe
        for name, n in ffn_weights(spec, moe.d_ff_shared).items():
            parts[f"layers.shared.{name}"] = n * n_moe
        parts["layers.shared.router_gate"] = spec.d_model * n_moe if moe.shared_gate else 0
    if spec.d_embed != spec.d_model:
        parts["embedding.projection"] = spec.d_embed * spec.d_model
    return Tally({name: n for name, n in parts.items() if n})


def head_weights(spec: ModelSpec) -> Tally:
    """Matmul weights of the output head (tied or not: the matmul is the same), with its projection if there is one."""
    parts = {"head": spec.d_embed * spec.padded_vocab_size}
    if spec.d_embed != spec.d_model:
        parts["head_projection"] = spec.d_model * spec.d_embed
    return Tally(parts)


def mtp_weights(spec: ModelSpec) -> Tally:
    """Matmul weights that one token passes in the multi-token-prediction modules (DeepSeek-V3), all together.

    Each module is a projection of 2d to d, one whole layer, and the output head once more.
    """
    parts = {"mtp.projection": 2 * spec.d_model * spec.d_model}
    parts |= {f"mtp.layer.attention.{name}": n for name, n in attention_weights(spec).items()}
    if spec.moe is None:
        parts |= {f"mtp.layer.ffn.{name}": n for name, n in ffn_weights(spec, spec.d_ff).items()}
    else:
        moe = spec.moe
        parts["mtp.layer.moe.router"] = spec.d_model * moe.n_experts
        for name, n in ffn_weights(spec, moe.d_ff_expert).items():
            parts[f"mtp.layer.moe.{name}"] = n * moe.experts_per_token
        for name, n in ffn_weights(spec, moe.d_ff_shared).items():
            parts[f"mtp.layer.shared.{name}"] = n
        parts["mtp.layer.shared.router_gate"] = spec.d_model if moe.shared_gate else 0
    parts["mtp.head"] = head_weights(spec).total
    return Tally({name: n * spec.n_mtp_layers for name, n in parts.items() if n})


def forward_flops(spec: ModelSpec, workload: Workload) -> Tally:
    """Matmul FLOPs of one forward pass by part, all scores of the attention computed.

    Multi-token-prediction modules work in training and in the full forward pass, not in prefill and decode.
    For a GPT (b sequences of T tokens, L layers of width d, vocabulary V) the total is 2bT(12Ld^2 + dV) + 4bT^2dL.
    """
    n_sequences = workload.batch * workload.n_accumulate
    n_rows = n_sequences * workload.n_queries
    parts = {name: 2 * n_rows * n for name, n in active_matmul_weights(spec).items()}  # [R,I] @ [I,O]
    n_scores = workload.n_queries * workload.seq_len * spec.n_layers * n_sequences * spec.n_heads
    d_value = spec.d_head if spec.mla is None else spec.mla.d_value
    parts["layers.attention.scores"] = 2 * n_scores * spec.d_head  # [B,H,Q,E] @ [B,H,E,K]
    parts["layers.attention.values"] = 2 * n_scores * d_value  # [B,H,Q,K] @ [B,H,K,E]
    n_logit_rows = n_sequences * workload.n_logit_positions
    for name, n in head_weights(spec).items():
        parts[name] = 2 * n_logit_rows * n  # [R,D] @ [D,V]
    if spec.n_mtp_layers and workload.phase in {"train", "forward"}:
        parts |= {name: 2 * n_rows * n for name, n in mtp_weights(spec).items()}
        n_mtp_scores = n_scores // spec.n_layers * spec.n_mtp_layers
        parts["mtp.layer.attention.scores"] = 2 * n_mtp_scores * spec.d_head
        parts["mtp.layer.attention.values"] = 2 * n_mtp_scores * d_value
    return Tally(parts)


def step_flops(spec: ModelSpec, workload: Workload, *, early_stop: bool = True) -> StepFlops:
    """Matmul FLOPs of one step of the workload's phase: forward, backward, and what is computed again.

    Backward is exactly twice forward: every matmul has one for its input and one for its weight (or, in attention,
    for both operands), and the embeddings, which are trained too, do none. With `early_stop` (torch's default) the
    recomputation of a layer ends before its last matmul, whose result nobody saved.
    """
    forward = forward_flops(spec, workload)
    if not workload.is_train:
        return StepFlops(forward=forward, backward=Tally(), recompute=Tally(), in_kernel=Tally())
    recompute = Tally()
    if workload.recompute == "full":
        recompute = forward.only("layers", "mtp.layer")
        if early_stop:
            recompute = recompute.without(*last_matmuls(spec))
    in_kernel = Tally()
    if workload.attention == "flash":
        in_kernel = forward.only("layers.attention.scores", "mtp.layer.attention.scores")
    return StepFlops(forward=forward, backward=forward * 2, recompute=recompute, in_kernel=in_kernel)


def last_matmuls(spec: ModelSpec) -> tuple[str, ...]:
    """The parts whose result ends a layer: computing them again would change nothing that backward needs.

    A norm after the FFN needs that result, and so do the weights that mix experts, or gate the shared ones.
    """
    if spec.norms_per_layer > 2:
        return ()
    if spec.moe is None:
        return ("layers.ffn.down", "mtp.layer.ffn.down")
    if spec.moe.shared_gate:
        return ("layers.ffn.down",)
    return ("layers.ffn.down", "layers.shared.down", "mtp.layer.shared.down")
