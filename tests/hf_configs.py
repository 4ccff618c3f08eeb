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
    "smollm3": [_GQA, _GQA | {"mlp_bias": True, **_BIAS, **_UNTIED}],
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
