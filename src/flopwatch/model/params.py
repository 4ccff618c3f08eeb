"""Parameters of a ModelSpec in closed form."""

from __future__ import annotations

from flopwatch.model.spec import ModelSpec, MoESpec
from flopwatch.tally import Tally


def count_params(spec: ModelSpec) -> Tally:
    """All parameters by part; equals `sum(p.numel())` of the module, tied tables counted once."""
    d, v = spec.d_model, spec.padded_vocab_size
    norm = norm_params(spec)
    parts = {
        "embedding.tokens": v * spec.d_embed,
        "embedding.positions": (spec.max_seq_len + spec.n_extra_positions) * d if spec.positions == "learned" else 0,
        "embedding.projection": 2 * spec.d_embed * d if spec.d_embed != d else 0,  # [E,D] in, [D,E] out
        "embedding.norm": norm if spec.embedding_norm else 0,
    }
    parts |= {f"layers.{name}": n * spec.n_layers for name, n in _attention(spec).items()}
    parts |= {f"layers.ffn.{name}": n * spec.n_dense_layers for name, n in _ffn(spec, spec.d_ff).items()}
    if spec.moe is not None:
        parts |= {f"layers.moe.{name}": n * spec.n_moe_layers for name, n in _moe(spec, spec.moe).items()}
    parts["layers.norms"] = spec.norms_per_layer * norm * spec.n_layers
    parts["final_norm"] = norm if spec.final_norm else 0
    parts["head.weight"] = 0 if spec.tied_head else v * spec.d_embed
    parts["head.bias"] = v if spec.head_bias else 0
    parts["mtp"] = spec.n_mtp_layers * _mtp_layer(spec)
    return Tally({name: n for name, n in parts.items() if n})


def count_active_params(spec: ModelSpec) -> int:
    """Parameters that one token passes: all but the experts it is not sent to."""
    if spec.moe is None:
        return count_params(spec).total
    one_expert = sum(_ffn_matrices(spec, spec.moe.d_ff_expert).values())
    one_expert += _ffn_bias(spec, spec.moe.d_ff_expert) if spec.moe.expert_bias else 0
    idle = spec.moe.n_experts - spec.moe.experts_per_token
    return count_params(spec).total - idle * one_expert * (spec.n_moe_layers + _n_moe_mtp_layers(spec))


def norm_params(spec: ModelSpec) -> int:
    """Parameters of one norm over d_model."""
    if not spec.norm_affine:
        return 0
    return spec.d_model * (2 if spec.norm_bias else 1)


def attention_weights(spec: ModelSpec) -> dict[str, int]:
    """Matmul weights of one attention by matrix, biases left out."""
    d = spec.d_model
    if spec.mla is None:
        return {
            "q": d * spec.d_query,
            "k": d * spec.d_kv,
            "v": d * spec.d_kv,
            "out": spec.d_query * d,
        }
    mla = spec.mla
    d_query = spec.n_heads * (mla.d_nope + mla.d_rope)
    queries = {"q_down": d * mla.q_rank, "q_up": mla.q_rank * d_query} if mla.q_rank else {"q": d * d_query}
    return {
        **queries,
        "kv_down": d * (mla.kv_rank + mla.d_rope),
        "kv_up": mla.kv_rank * spec.n_heads * (mla.d_nope + mla.d_value),
        "out": spec.d_attention_out * d,
    }


def ffn_weights(spec: ModelSpec, d_ff: int) -> dict[str, int]:
    """Matmul weights of one FFN of width `d_ff` by matrix, biases left out."""
    return _ffn_matrices(spec, d_ff)


def _attention(spec: ModelSpec) -> dict[str, int]:
    parts = {f"attention.{name}": n for name, n in attention_weights(spec).items()}
    bias = spec.d_model if spec.out_bias else 0
    if spec.mla is None:
        bias += (spec.d_query + 2 * spec.d_kv) if spec.qkv_bias else 0
        norms = {"none": 0, "per_head": 2 * spec.d_head, "full": spec.d_query + spec.d_kv}[spec.qk_norm]
    else:
        bias += (spec.mla.q_rank + spec.mla.kv_rank + spec.mla.d_rope) if spec.qkv_bias else 0
        norms = spec.mla.q_rank + spec.mla.kv_rank
    parts["attention.bias"] = bias
    parts["attention.norms"] = norms
    parts["attention.sinks"] = spec.n_heads if spec.attention_sinks else 0
    return parts


def _ffn_matrices(spec: ModelSpec, d_ff: int) -> dict[str, int]:
    one = spec.d_model * d_ff
    return {"gate": one, "up": one, "down": one} if spec.is_gated else {"up": one, "down": one}


def _ffn_bias(spec: ModelSpec, d_ff: int) -> int:
    return (2 if spec.is_gated else 1) * d_ff + spec.d_model


def _ffn(spec: ModelSpec, d_ff: int) -> dict[str, int]:
    return {**_ffn_matrices(spec, d_ff), "bias": _ffn_bias(spec, d_ff) if spec.ffn_bias else 0}


def _moe(spec: ModelSpec, moe: MoESpec) -> dict[str, int]:
    experts = sum(_ffn_matrices(spec, moe.d_ff_expert).values())
    shared = sum(_ffn_matrices(spec, moe.d_ff_shared).values())
    bias = moe.n_experts * _ffn_bias(spec, moe.d_ff_expert) if moe.expert_bias else 0
    bias += _ffn_bias(spec, moe.d_ff_shared) if moe.shared_bias else 0
    return {
        "router": spec.d_model * moe.n_experts + (moe.n_experts if moe.router_bias else 0),
        "experts": moe.n_experts * experts,
        "shared": shared,
        "shared_gate": spec.d_model if moe.shared_gate else 0,
        "bias": bias,
    }


def _n_moe_mtp_layers(spec: ModelSpec) -> int:
    return spec.n_mtp_layers if spec.moe is not None else 0


def _mtp_layer(spec: ModelSpec) -> int:
    """One multi-token-prediction layer (DeepSeek-V3): two norms, a 2d x d projection, a whole layer, a final norm."""
    layer = sum(_attention(spec).values()) + spec.norms_per_layer * norm_params(spec)
    ffn = _moe(spec, spec.moe) if spec.moe is not None else _ffn(spec, spec.d_ff)
    return layer + sum(ffn.values()) + 2 * spec.d_model * spec.d_model + 3 * norm_params(spec)
