"""Mixtures of experts: Mixtral, Qwen-MoE, DeepSeek, GPT-OSS and kin."""

from __future__ import annotations

from typing import Any

from flopwatch.model.huggingface.gated import llama
from flopwatch.model.huggingface.reader import ConfigReader
from flopwatch.model.huggingface.windows import every_nth_full, switched_window_fields, window_fields


def mixtral(config: ConfigReader) -> dict[str, Any]:
    """Mixtral: every layer a mixture, the experts as wide as the FFN they stand for."""
    return llama(config) | {"moe": _experts(config, "num_local_experts")} | window_fields(config, "L")


def granitemoe(config: ConfigReader) -> dict[str, Any]:
    """Granite 3 MoE."""
    return llama(config) | {"moe": _experts(config, "num_local_experts")}


def olmoe(config: ConfigReader) -> dict[str, Any]:
    """OLMoE: a norm over all query and all key heads together."""
    return llama(config) | {"qk_norm": "full", "moe": _experts(config, "num_experts")}


def gpt_oss(config: ConfigReader) -> dict[str, Any]:
    """GPT-OSS: biases in router and experts, a sink logit for each head, every other layer with the window."""
    moe = _experts(config, "num_local_experts") | {"router_bias": True, "expert_bias": True}
    return llama(config) | {"attention_sinks": True, "moe": moe} | window_fields(config, every_nth_full(2))


def qwen2_moe(config: ConfigReader) -> dict[str, Any]:
    """Qwen 1.5 and 2 MoE: biases on q, k, v; shared experts behind a gate of their own."""
    fields = llama(config) | {"qkv_bias": config.flag("qkv_bias"), "out_bias": False}
    d_ff_shared = config.size("shared_expert_intermediate_size")
    shared = {"n_shared_experts": 1, "d_ff_shared": d_ff_shared, "shared_gate": True}
    return fields | _sparse_layers(config, shared) | switched_window_fields(config, _early_pattern(config))


def qwen3_moe(config: ConfigReader) -> dict[str, Any]:
    """Qwen 3 MoE: a norm on each query and key head, no shared experts."""
    fields = llama(config) | {"qk_norm": "per_head"}
    return fields | _sparse_layers(config, {}) | switched_window_fields(config, "L")


def deepseek_v2(config: ConfigReader) -> dict[str, Any]:
    """DeepSeek-V2: low-rank attention, shared experts, the first layers dense; mlp_bias also in the shared experts."""
    fields = _deepseek(config)
    if fields["ffn_bias"]:
        fields["moe"]["shared_bias"] = True
    return fields


def deepseek_v3(config: ConfigReader) -> dict[str, Any]:
    """DeepSeek-V3 without its multi-token-prediction layers, which transformers does not build either."""
    return _deepseek(config)


def glm4_moe(config: ConfigReader) -> dict[str, Any]:
    """GLM-4.5: grouped attention with DeepSeek's experts."""
    fields = llama(config) | {"out_bias": False, "moe": _deepseek_experts(config)}
    return fields | ({"qk_norm": "per_head"} if config.flag("use_qk_norm") else {})


def _experts(config: ConfigReader, n_experts: str, d_ff: str = "intermediate_size") -> dict[str, Any]:
    moe = {
        "n_experts": config.size(n_experts),
        "experts_per_token": config.size("num_experts_per_tok"),
        "d_ff_expert": config.size(d_ff),
    }
    if moe["experts_per_token"] > moe["n_experts"]:
        raise config.error("num_experts_per_tok", f"is more than {n_experts}={moe['n_experts']}")
    return moe


def _sparse_layers(config: ConfigReader, shared: dict[str, Any]) -> dict[str, Any]:
    """The mixture of the Qwen types: every decoder_sparse_step-th layer but those of mlp_only_layers."""
    if config.value("num_experts") == 0 and type(config.value("num_experts")) is int:
        return {}
    n_layers = config.size("num_hidden_layers")
    dense = sorted({layer for layer in config.numbers("mlp_only_layers") if layer < n_layers})
    moe = _experts(config, "num_experts", "moe_intermediate_size") | shared
    return {"moe": moe | {"layer_step": config.size_or_default("decoder_sparse_step"), "dense_layers": dense}}


def _early_pattern(config: ConfigReader) -> str:
    """The window in every other of the first max_window_layers layers (Qwen2-MoE, when it is switched on)."""
    n_layers = config.size("num_hidden_layers")
    n_early = min(config.count("max_window_layers"), n_layers)
    return ("LG" * n_early)[:n_early] + "G" * (n_layers - n_early)


def _deepseek(config: ConfigReader) -> dict[str, Any]:
    fields = llama(config)
    fields.pop("d_head", None)  # transformers writes the rotated width there
    fields["n_kv_heads"] = fields["n_heads"]  # every head has keys and values of its own, made from the shared latent
    mla = {
        "q_rank": config.size_or_none("q_lora_rank") or 0,
        "kv_rank": config.size("kv_lora_rank"),
        "d_nope": config.size("qk_nope_head_dim"),
        "d_rope": config.size("qk_rope_head_dim"),
        "d_value": config.size("v_head_dim"),
    }
    return fields | {"mla": mla, "moe": _deepseek_experts(config)}


def _deepseek_experts(config: ConfigReader) -> dict[str, Any]:
    config.must_be("moe_layer_freq", usual=1)
    return _experts(config, "n_routed_experts", "moe_intermediate_size") | {
        "n_shared_experts": config.count("n_shared_experts"),
        "first_dense_layers": min(config.count("first_k_dense_replace"), config.size("num_hidden_layers")),
    }
