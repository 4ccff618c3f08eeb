"""GPT-2 and its kin: two matrices in the FFN, LayerNorm, learned or ALiBi or rotary positions."""

from __future__ import annotations

import reprlib
from typing import Any

from flopwatch.model.huggingface.gated import head_fields
from flopwatch.model.huggingface.reader import ConfigReader
from flopwatch.model.huggingface.windows import window_fields


def gpt2(config: ConfigReader) -> dict[str, Any]:
    """GPT-2: learned positions, biases everywhere, FFN 4 times as wide unless n_inner says otherwise."""
    d_ff = config.size_or_none("n_inner")
    return {
        "n_layers": config.size("n_layer"),
        "d_model": config.size("n_embd"),
        "n_heads": config.size("n_head"),
        "vocab_size": config.size("vocab_size"),
        "max_seq_len": config.size("n_positions"),
        "ffn": config.plain_ffn("activation_function"),
        "tied_head": config.flag("tie_word_embeddings"),
        **({"d_ff": d_ff} if d_ff is not None else {}),
    }


def gpt_bigcode(config: ConfigReader) -> dict[str, Any]:
    """SantaCoder and StarCoder 1: GPT-2 with one key-value head."""
    return gpt2(config) | ({"n_kv_heads": 1} if config.flag("multi_query") else {})


def gptj(config: ConfigReader) -> dict[str, Any]:
    """GPT-J: rotary, attention and FFN side by side after one norm, biases in the FFN and the head only."""
    return gpt2(config) | {
        "positions": "rope",
        "qkv_bias": False,
        "out_bias": False,
        "head_bias": True,
        "parallel_block": True,
        "norms_per_layer": 1,
    }


def _common(config: ConfigReader) -> dict[str, Any]:
    return {
        "n_layers": config.size("num_hidden_layers"),
        "d_model": config.size("hidden_size"),
        "n_heads": config.size("num_attention_heads"),
        "vocab_size": config.size("vocab_size"),
        "tied_head": config.flag("tie_word_embeddings"),
    }


def gpt_neox(config: ConfigReader) -> dict[str, Any]:
    """GPT-NeoX and Pythia: rotary, two norms a layer even where attention and FFN stand side by side."""
    bias = config.flag("attention_bias")
    return _common(config) | {
        "d_ff": config.size("intermediate_size"),
        "ffn": config.plain_ffn("hidden_act"),
        "positions": "rope",
        "max_seq_len": config.size_or_default("max_position_embeddings"),
        "qkv_bias": bias,
        "out_bias": bias,
        "parallel_block": config.flag("use_parallel_residual"),
    }


def phi(config: ConfigReader) -> dict[str, Any]:
    """Phi-1 to 2: rotary, side by side after one norm, biases everywhere and on the head."""
    config.must_be("qk_layernorm", usual=False)
    return _common(config) | {
        **head_fields(config),
        "d_ff": config.size("intermediate_size"),
        "ffn": config.plain_ffn("hidden_act"),
        "positions": "rope",
        "max_seq_len": config.size_or_default("max_position_embeddings"),
        "head_bias": True,
        "parallel_block": True,
        "norms_per_layer": 1,
    }


def starcoder2(config: ConfigReader) -> dict[str, Any]:
    """StarCoder 2: rotary, grouped keys and values, biases by use_bias."""
    return _common(config) | {
        **head_fields(config),
        "d_ff": config.size("intermediate_size"),
        "ffn": config.plain_ffn("hidden_act"),
        "positions": "rope",
        "max_seq_len": config.size_or_default("max_position_embeddings"),
        "bias": config.flag("use_bias"),
        **window_fields(config, "L"),
    }


def falcon(config: ConfigReader) -> dict[str, Any]:
    """Falcon: one key-value head (7B) or num_kv_heads (40B on); side by side with one norm, in the newer ones two."""
    is_new, is_parallel = config.flag("new_decoder_architecture"), config.flag("parallel_attn")
    n_kv_heads = 1 if config.flag("multi_query") else None
    if is_new:
        n_kv_heads = config.size_or_none("num_kv_heads")
    n_norms = config.size_or_none("num_ln_in_parallel_attn") or (2 if is_new else 1)
    d_ff = config.size_or_none("ffn_hidden_size")
    return _common(config) | {
        **({"n_kv_heads": n_kv_heads} if n_kv_heads is not None else {}),
        **({"d_ff": d_ff} if d_ff is not None else {}),
        "ffn": config.plain_ffn("activation"),
        "positions": "alibi" if config.flag("alibi") else "rope",
        "max_seq_len": config.size_or_default("max_position_embeddings"),
        "bias": config.flag("bias"),
        "parallel_block": is_parallel,
        "norms_per_layer": 2 if not is_parallel or n_norms == 2 else 1,
    }


def bloom(config: ConfigReader) -> dict[str, Any]:
    """BLOOM: ALiBi (it sets no context: seq_length is the trained one), a norm on the embeddings, biases everywhere."""
    return {
        "n_layers": config.size("n_layer"),
        "d_model": config.size("hidden_size"),
        "n_heads": config.size("n_head"),
        "vocab_size": config.size("vocab_size"),
        "tied_head": config.flag("tie_word_embeddings"),
        "positions": "alibi",
        "embedding_norm": True,
        "max_seq_len": config.size_or_default("seq_length"),
    }


def opt(config: ConfigReader) -> dict[str, Any]:
    """OPT: two position rows more than the context, embeddings narrower than the layers in the 350M."""
    is_before = config.flag("do_layer_norm_before")
    d_embed = config.size_or_none("word_embed_proj_dim")
    return _common(config) | {
        "d_ff": config.size("ffn_dim"),
        "ffn": config.plain_ffn("activation_function"),
        "max_seq_len": config.size("max_position_embeddings"),
        "n_extra_positions": 2,  # OPTLearnedPositionalEmbedding's offset
        "bias": config.flag("enable_bias"),
        "norm_affine": config.flag("layer_norm_elementwise_affine"),
        "final_norm": is_before and not config.flag("_remove_final_layer_norm"),
        **({"d_embed": d_embed} if d_embed is not None else {}),
    }


def mpt(config: ConfigReader) -> dict[str, Any]:
    """MPT: ALiBi, no biases at all. transformers has no other variant, so a config that asks for one is refused."""
    config.must_be("expansion_ratio", usual=4)
    config.must_be("no_bias", usual=True)
    attention = config.value("attn_config")
    if attention is not None:
        if not isinstance(attention, dict):
            raise config.error("attn_config", "is not a table of keys")
        for key, allowed in (("alibi", True), ("qk_ln", False), ("attn_type", "multihead_attention")):
            if attention.get(key, allowed) != allowed:
                rule = f"has {key}={reprlib.repr(attention[key])}, a variant without a closed form here"
                raise config.error("attn_config", rule, hint="use count --trace")
    return {
        "n_layers": config.size("n_layers"),
        "d_model": config.size("d_model"),
        "n_heads": config.size("n_heads"),
        "vocab_size": config.size("vocab_size"),
        "tied_head": config.flag("tie_word_embeddings"),
        "positions": "alibi",
        "max_seq_len": config.size_or_default("max_seq_len"),
        "bias": False,
        "norm_bias": False,
    }
