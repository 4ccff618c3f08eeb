"""Small, odd-sized configs of every Hugging Face model type with a closed form, as arguments of its config class."""

_SIZES = {"vocab_size": 211, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6}
_LLAMA = {**_SIZES, "intermediate_size": 100, "max_position_embeddings": 40, "pad_token_id": 0}
_GQA = {**_LLAMA, "num_key_value_heads": 2}
_TIED = {"tie_word_embeddings": True}
_UNTIED = {"tie_word_embeddings": False}
_BIAS = {"attention_bias": True}
_GPT2 = {"vocab_size": 211, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 40}
_MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 22}
_MLA = {
    **_LLAMA,
    **_MOE,
    "num_key_value_heads": 6,
    "q_lora_rank": 14,
    "kv_lora_rank": 18,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 4,
    "v_head_dim": 7,
    "n_routed_experts": 6,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}
_WINDOW = {"sliding_window": 5}

CONFIGS = {
    "gpt2": [_GPT2, _GPT2 | {"n_inner": 71, "n_layer": 2} | _UNTIED, _GPT2 | {"activation_function": "relu"}],
    "llama": [_LLAMA, _GQA | _BIAS | {"mlp_bias": True}, _GQA | _TIED | {"head_dim": 10, "num_key_value_heads": 3}],
    "mistral": [_GQA | _WINDOW, _GQA | {"head_dim": 10, "sliding_window": None}, _GQA | _TIED],
    "mixtral": [
        _GQA | {"num_local_experts": 5, "num_experts_per_tok": 2},
        _GQA | {"num_local_experts": 4, "num_experts_per_tok": 3, "head_dim": 10, **_WINDOW},
    ],
    "qwen2": [
        _GQA,
        _GQA | _TIED,
        _GQA | _WINDOW | {"use_sliding_window": True, "max_window_layers": 1, "num_key_value_heads": 3},
    ],
    "qwen3": [_GQA | {"head_dim": 10}, _GQA | {"head_dim": 14, **_BIAS, **_TIED}],
    "qwen2_moe": [
        _GQA | _MOE | {"num_experts": 5, "shared_expert_intermediate_size": 34},
        _GQA
        | _MOE
        | {"num_hidden_layers": 5, "num_experts": 7, "shared_expert_intermediate_size": 33, "decoder_sparse_step": 2},
        _GQA
        | _MOE
        | {"num_experts": 5, "shared_expert_intermediate_size": 34, "mlp_only_layers": [1], "qkv_bias": False},
    ],
    "qwen3_moe": [
        _GQA | _MOE | {"num_experts": 5, "head_dim": 10},
        _GQA | _MOE | {"num_experts": 9, "mlp_only_layers": [0, 2], **_BIAS},
    ],
    "gemma": [_GQA | {"head_dim": 10}, _GQA | {"head_dim": 18, "num_key_value_heads": 1, **_BIAS, **_UNTIED}],
    "gemma2": [_GQA | {"head_dim": 10, **_WINDOW}, _GQA | {"head_dim": 18, "num_hidden_layers": 4, **_BIAS}],
    "gemma3_text": [
        _GQA | {"head_dim": 10, **_WINDOW},
        _GQA | {"head_dim": 18, "num_hidden_layers": 7, **_BIAS, **_UNTIED},
    ],
    "phi3": [_LLAMA, _GQA | _WINDOW | _TIED],
    "gpt_neox": [_LLAMA, _LLAMA | {"attention_bias": False, "use_parallel_residual": False, **_TIED}],
    "falcon": [
        _SIZES,
        _SIZES | {"new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 71},
        _SIZES | {"multi_query": False, "bias": True, "alibi": True, "parallel_attn": False},
        _SIZES | {"new_decoder_architecture": True, "num_kv_heads": 3, "num_ln_in_parallel_attn": 1, **_UNTIED},
    ],
    "bloom": [
        {"vocab_size": 211, "hidden_size": 48, "n_layer": 3, "n_head": 6},
        {"vocab_size": 211, "hidden_size": 56, "n_layer": 2, "n_head": 7, **_UNTIED},
    ],
    "opt": [
        _SIZES | {"ffn_dim": 100, "max_position_embeddings": 40},
        _SIZES
        | {"ffn_dim": 71, "max_position_embeddings": 41, "word_embed_proj_dim": 20, "do_layer_norm_before": False},
        _SIZES
        | {"ffn_dim": 71, "max_position_embeddings": 41, "enable_bias": False, "layer_norm_elementwise_affine": False},
        _SIZES | {"ffn_dim": 71, "max_position_embeddings": 41, "word_embed_proj_dim": 20, **_UNTIED},
    ],
    "mpt": [
        {"vocab_size": 211, "d_model": 48, "n_layers": 3, "n_heads": 6, "max_seq_len": 40},
        {"vocab_size": 211, "d_model": 56, "n_layers": 2, "n_heads": 7, "max_seq_len": 40, **_UNTIED},
    ],
    "olmo2": [_LLAMA, _GQA | _BIAS | _TIED],
    "deepseek_v2": [
        _MLA,
        _MLA | {"q_lora_rank": None, "mlp_bias": True, "first_k_dense_replace": 2},
        _MLA | _BIAS | {"n_shared_experts": 1, "first_k_dense_replace": 0, **_TIED},
    ],
    "deepseek_v3": [
        _MLA,
        _MLA | {"q_lora_rank": None, "first_k_dense_replace": 3},
        _MLA | _BIAS | {"n_shared_experts": 1, "first_k_dense_replace": 0},
    ],
    "gpt_oss": [
        _GQA | {"num_local_experts": 5, "num_experts_per_tok": 2, "head_dim": 10, **_WINDOW},
        _GQA | {"num_local_experts": 4, "num_experts_per_tok": 3, "head_dim": 14, "attention_bias": False},
    ],
    "starcoder2": [_GQA, _GQA | {"use_bias": False, **_WINDOW, **_UNTIED}],
    "stablelm": [
        _GQA,
        _GQA | {"use_qkv_bias": True, "qk_layernorm": True},
        _GQA | {"use_parallel_residual": True, **_TIED},
    ],
    "cohere": [_LLAMA, _GQA | {"use_qk_norm": True, **_BIAS, **_UNTIED}],
    "granite": [_GQA, _LLAMA | {"mlp_bias": True, **_BIAS, **_TIED}],
    # Types beyond those asked for.
    "cohere2": [_GQA | {"head_dim": 10, "num_hidden_layers": 6, **_WINDOW}],
    "olmo": [_GQA | _BIAS, _LLAMA],
    "olmo3": [_GQA | {"num_hidden_layers": 5, **_WINDOW}],
    "olmoe": [_GQA | {"num_experts": 5, "num_experts_per_tok": 2}],
    "granitemoe": [_GQA | {"num_local_experts": 5, "num_experts_per_tok": 2}],
    "phi": [_LLAMA, _GQA],
    "smollm3": [
        _GQA,
        _GQA | {"mlp_bias": True, **_BIAS, **_UNTIED},
        _GQA | _WINDOW | {"layer_types": ["sliding_attention", "full_attention", "full_attention"]},
    ],
    "glm4": [_GQA | {"head_dim": 10}, _GQA | {"head_dim": 10, "attention_bias": False}],
    "gptj": [_GPT2 | {"rotary_dim": 4}, _GPT2 | {"rotary_dim": 8, "n_inner": 71}],
    "ministral": [
        _GQA | _WINDOW | {"head_dim": 10, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}
    ],
    "seed_oss": [_GQA | {"head_dim": 10}, _GQA | {"head_dim": 10, "attention_out_bias": True, "mlp_bias": True}],
    "gpt_bigcode": [_GPT2, _GPT2 | {"multi_query": False, "n_inner": 71}],
    "glm4_moe": [
        _GQA
        | _MOE
        | {"head_dim": 8, "n_routed_experts": 6, "n_shared_experts": 1, "n_group": 2, "topk_group": 1, **_UNTIED},
        _GQA | _MOE | {"n_routed_experts": 6, "n_shared_experts": 2, "use_qk_norm": True, "attention_bias": True},
    ],
}


def _sizes(n_layers, width, n_heads, d_ff, vocab_size, context, **more):
    return {
        "num_hidden_layers": n_layers,
        "hidden_size": width,
        "num_attention_heads": n_heads,
        "intermediate_size": d_ff,
        "vocab_size": vocab_size,
        "max_position_embeddings": context,
        **more,
    }


def _renamed(sizes, **names):
    """The same sizes under the keys of another type; a key renamed to None is left out."""
    kept = {names.get(key, key): value for key, value in sizes.items()}
    kept.pop(None, None)
    return kept


_GPT2_KEYS = {
    "num_hidden_layers": "n_layer",
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
}
_LATENT = {"kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}

# Preset -> (model type, what its config.json says).
FAMOUS = {
    "gpt2-xl": ("gpt2", _renamed(_sizes(48, 1600, 25, 6400, 50257, 1024), **_GPT2_KEYS)),
    "llama-3.1-405b": ("llama", _sizes(126, 16384, 128, 53248, 128256, 131072, num_key_value_heads=8)),
    "mistral-7b": ("mistral", _sizes(32, 4096, 32, 14336, 32000, 32768, num_key_value_heads=8, sliding_window=4096)),
    "mixtral-8x22b": ("mixtral", _sizes(56, 6144, 48, 16384, 32000, 65536, num_key_value_heads=8)),
    "qwen2.5-7b": (
        "qwen2",
        _sizes(28, 3584, 28, 18944, 152064, 131072, num_key_value_heads=4, use_sliding_window=False),
    ),
    "qwen3-4b": ("qwen3", _sizes(36, 2560, 32, 9728, 151936, 40960, num_key_value_heads=8, tie_word_embeddings=True)),
    "qwen1.5-moe-a2.7b": (
        "qwen2_moe",
        _sizes(24, 2048, 16, 5632, 151936, 8192)
        | {"num_experts": 60, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632},
    ),
    "qwen3-235b-a22b": (
        "qwen3_moe",
        _sizes(94, 4096, 64, 12288, 151936, 40960, num_key_value_heads=4, head_dim=128)
        | {"num_experts": 128, "moe_intermediate_size": 1536},
    ),
    "gemma-7b": ("gemma", _sizes(28, 3072, 16, 24576, 256000, 8192)),
    "gemma-2-27b": ("gemma2", _sizes(46, 4608, 32, 36864, 256000, 8192, num_key_value_heads=16, head_dim=128)),
    "gemma-3-27b": (
        "gemma3_text",
        _sizes(62, 5376, 32, 21504, 262208, 131072, num_key_value_heads=16, head_dim=128, sliding_window=1024),
    ),
    "phi-3-medium": ("phi3", _sizes(40, 5120, 40, 17920, 32064, 4096, num_key_value_heads=10, sliding_window=2047)),
    "gpt-neox-20b": ("gpt_neox", _sizes(44, 6144, 64, 24576, 50432, 2048)),
    "falcon-40b": (
        "falcon",
        _renamed(_sizes(60, 8192, 128, 32768, 65024, 2048), intermediate_size=None)
        | {"new_decoder_architecture": True, "num_kv_heads": 8},
    ),
    "bloom-176b": ("bloom", {"n_layer": 70, "hidden_size": 14336, "n_head": 112, "vocab_size": 250880}),
    "opt-350m": (
        "opt",
        _renamed(_sizes(24, 1024, 16, 4096, 50272, 2048), intermediate_size="ffn_dim")
        | {"word_embed_proj_dim": 512, "do_layer_norm_before": False},
    ),
    "mpt-30b": ("mpt", {"n_layers": 48, "d_model": 7168, "n_heads": 64, "vocab_size": 50432, "max_seq_len": 8192}),
    "olmo-2-32b": ("olmo2", _sizes(64, 5120, 40, 27648, 100352, 4096, num_key_value_heads=8)),
    "deepseek-v2": (
        "deepseek_v2",
        _sizes(60, 5120, 128, 12288, 102400, 163840, first_k_dense_replace=1, num_experts_per_tok=6)
        | {"n_routed_experts": 160, "moe_intermediate_size": 1536, "n_shared_experts": 2, **_LATENT},
    ),
    "deepseek-v3": (
        "deepseek_v3",
        _sizes(61, 7168, 128, 18432, 129280, 163840, first_k_dense_replace=3, num_experts_per_tok=8)
        | {"n_routed_experts": 256, "moe_intermediate_size": 2048, "n_shared_experts": 1, **_LATENT},
    ),
    "gpt-oss-120b": ("gpt_oss", _sizes(36, 2880, 64, 2880, 201088, 131072, num_key_value_heads=8)),
    "starcoder2-15b": (
        "starcoder2",
        _sizes(
            40, 6144, 48, 24576, 49152, 16384, num_key_value_heads=4, sliding_window=4096, tie_word_embeddings=False
        ),
    ),
    "stablelm-2-12b": (
        "stablelm",
        _sizes(40, 5120, 32, 13824, 100352, 4096, num_key_value_heads=8)
        | {"use_parallel_residual": True, "qk_layernorm": True},
    ),
    "command-r-plus-104b": (
        "cohere",
        _sizes(64, 12288, 96, 33792, 256000, 131072, num_key_value_heads=8, use_qk_norm=True),
    ),
    "granite-3.1-8b": (
        "granite",
        _sizes(40, 4096, 32, 12800, 49155, 131072, num_key_value_heads=8, tie_word_embeddings=True),
    ),
    "phi-2": ("phi", _sizes(32, 2560, 32, 10240, 51200, 2048)),
    "gpt-j-6b": ("gptj", _renamed(_sizes(28, 4096, 16, 16384, 50400, 2048), **_GPT2_KEYS)),
    "olmoe-1b-7b": ("olmoe", _sizes(16, 2048, 16, 1024, 50304, 4096)),
    "smollm3-3b": ("smollm3", _sizes(36, 2048, 16, 11008, 128256, 65536, num_key_value_heads=4)),
    "starcoder-15b": ("gpt_bigcode", _renamed(_sizes(40, 6144, 48, 24576, 49152, 8192), **_GPT2_KEYS)),
}
