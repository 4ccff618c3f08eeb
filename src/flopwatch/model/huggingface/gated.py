"""Llama and its kin: rotary positions, RMSNorm, a gated FFN, grouped keys and values."""

from __future__ import annotations

from typing import Any

from flopwatch.model.huggingface.reader import ConfigReader
from flopwatch.model.huggingface.windows import every_nth_full, late_pattern, switched_window_fields, window_fields


def llama(config: ConfigReader, activation: str = "hidden_act") -> dict[str, Any]:
    """Llama 1 to 3, Granite and others: attention_bias for q, k, v and o, mlp_bias for the FFN."""
    return {
        "n_layers": config.size("num_hidden_layers"),
        "d_model": config.size("hidden_size"),
        "n_heads": config.size("num_attention_heads"),
        **head_fields(config),
        "d_ff": config.size("intermediate_size"),
        "ffn": config.gated_ffn(activation),
        "vocab_size": config.size("vocab_size"),
        "tied_head": config.flag("tie_word_embeddings"),
        "positions": "rope",
        "max_seq_len": config.size_or_default("max_position_embeddings"),
        "norm": "rmsnorm",
        "bias": False,
        "qkv_bias": config.flag("attention_bias"),
        "out_bias": config.flag("attention_bias"),
        "ffn_bias": config.flag("mlp_bias"),
    }


def head_fields(config: ConfigReader) -> dict[str, Any]:
    """`n_kv_heads` and `d_head` where the config gives them."""
    fields = {"n_kv_heads": config.size_or_none("num_key_value_heads"), "d_head": config.size_or_none("head_dim")}
    return {name: value for name, value in fields.items() if value is not None}


def mistral(config: ConfigReader) -> dict[str, Any]:
    """Mistral 7B: Llama without biases, every layer with the window if there is one."""
    return llama(config) | window_fields(config, "L")


def phi3(config: ConfigReader) -> dict[str, Any]:
    """Phi-3: q, k, v and gate, up in one matrix each, which changes no count."""
    return llama(config) | window_fields(config, "L")


def qwen2(config: ConfigReader) -> dict[str, Any]:
    """Qwen 2 and 2.5: biases on q, k, v."""
    windows = switched_window_fields(config, late_pattern(config))
    return llama(config) | {"qkv_bias": True, "out_bias": False} | windows


def qwen3(config: ConfigReader) -> dict[str, Any]:
    """Qwen 3: a norm on each query and key head."""
    return llama(config) | {"qk_norm": "per_head"} | switched_window_fields(config, late_pattern(config))


def gemma(config: ConfigReader) -> dict[str, Any]:
    """Gemma 1: wide heads, GELU gate."""
    return llama(config)


def gemma2(config: ConfigReader) -> dict[str, Any]:
    """Gemma 2: four norms a layer, every other layer with the window."""
    fields = llama(config, "hidden_activation") | {"norms_per_layer": 4}
    return fields | window_fields(config, "LG")


def gemma3_text(config: ConfigReader) -> dict[str, Any]:
    """Gemma 3, its text model: Gemma 2 with a norm on each query and key head, five windowed layers to a full one."""
    key = "sliding_window_pattern"
    n = config.size_or_none(key) or config.size_or_none(f"_{key}") or 6
    fields = llama(config, "hidden_activation") | {"norms_per_layer": 4}
    windows = window_fields(config, every_nth_full(min(n, config.size("num_hidden_layers") + 1)))
    if windows and config.flag("use_bidirectional_attention"):
        windows["window"] = windows["window"] // 2 + 1
    return fields | {"qk_norm": "per_head"} | windows


def olmo(config: ConfigReader) -> dict[str, Any]:
    """OLMo 1: LayerNorm without weights."""
    return llama(config) | {"norm": "layernorm", "norm_affine": False}


def olmo2(config: ConfigReader) -> dict[str, Any]:
    """OLMo 2: norms after attention and FFN, and over all query and all key heads together."""
    return llama(config) | {"qk_norm": "full"}


def olmo3(config: ConfigReader) -> dict[str, Any]:
    """OLMo 3: OLMo 2 with three windowed layers to a full one."""
    return olmo2(config) | window_fields(config, every_nth_full(4))


def stablelm(config: ConfigReader) -> dict[str, Any]:
    """StableLM: LayerNorm, biases on q, k, v if any, one norm a layer where attention and FFN stand side by side."""
    fields = llama(config) | {"norm": "layernorm", "qkv_bias": config.flag("use_qkv_bias"), "out_bias": False}
    fields.pop("d_head", None)
    if config.flag("qk_layernorm"):
        fields["qk_norm"] = "full"  # one norm of its own for each head: as many weights as over all heads together
    if config.flag("use_parallel_residual"):
        fields |= {"parallel_block": True, "norms_per_layer": 1}
    return fields


def cohere(config: ConfigReader) -> dict[str, Any]:
    """Command-R: LayerNorm without bias, one a layer, attention and FFN side by side."""
    fields = llama(config) | {
        "norm": "layernorm",
        "norm_bias": False,
        "parallel_block": True,
        "norms_per_layer": 1,
    }
    return fields | ({"qk_norm": "full"} if config.flag("use_qk_norm") else {})


def cohere2(config: ConfigReader) -> dict[str, Any]:
    """Command-R7B: Command-R with three windowed layers to a full one."""
    n = config.size_or_none("sliding_window_pattern") or 4
    return cohere(config) | window_fields(config, every_nth_full(min(n, config.size("num_hidden_layers") + 1)))


def smollm3(config: ConfigReader) -> dict[str, Any]:
    """SmolLM3: Llama that leaves out the rotation in every fourth layer, which changes no count."""
    pattern = "".join("GL"[rotates] for rotates in _rotating(config))
    if config.texts("layer_types") is not None:  # they hold whether use_sliding_window is true or not
        return llama(config) | window_fields(config, pattern)
    return llama(config) | switched_window_fields(config, pattern)


def _rotating(config: ConfigReader) -> list[int]:
    """1 for each layer with rotary positions; those have the window when it is switched on."""
    n_layers, said = config.size("num_hidden_layers"), config.numbers("no_rope_layers")
    if said and (len(said) != n_layers or max(said) > 1):
        raise config.error("no_rope_layers", f"is not one 0 or 1 for each of {n_layers} layers")
    every = config.size_or_none("no_rope_layer_interval") or 4
    return list(said) or [int((layer + 1) % every != 0) for layer in range(n_layers)]


def glm4(config: ConfigReader) -> dict[str, Any]:
    """GLM-4: four norms a layer, biases on q, k, v."""
    return llama(config) | {"out_bias": False, "norms_per_layer": 4}


def ministral(config: ConfigReader) -> dict[str, Any]:
    """Ministral: Mistral with its windows by layer_types."""
    return llama(config) | window_fields(config, "L")


def seed_oss(config: ConfigReader) -> dict[str, Any]:
    """Seed-OSS: biases on q, k, v, one of its own switch for o."""
    return llama(config) | {"out_bias": config.flag("attention_out_bias")}
