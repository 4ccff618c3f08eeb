"""Hugging Face's config.json -> the fields of a ModelSpec, without transformers and without any code of the model."""

from __future__ import annotations

import functools
import reprlib
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from flopwatch.errors import InputError, UnknownModelError
from flopwatch.model.huggingface import classic, experts, gated
from flopwatch.model.huggingface.reader import ConfigReader

__all__ = ["config_fields", "model_types"]

_TYPES: Final[dict[str, Callable[[ConfigReader], dict[str, Any]]]] = {
    "bloom": classic.bloom,
    "cohere": gated.cohere,
    "cohere2": gated.cohere2,
    "deepseek_v2": experts.deepseek_v2,
    "deepseek_v3": experts.deepseek_v3,
    "falcon": classic.falcon,
    "gemma": gated.gemma,
    "gemma2": gated.gemma2,
    "gemma3_text": gated.gemma3_text,
    "glm4": gated.glm4,
    "glm4_moe": experts.glm4_moe,
    "gpt2": classic.gpt2,
    "gpt_bigcode": classic.gpt_bigcode,
    "gpt_neox": classic.gpt_neox,
    "gpt_oss": experts.gpt_oss,
    "gptj": classic.gptj,
    "granite": gated.llama,
    "granitemoe": experts.granitemoe,
    "llama": gated.llama,
    "ministral": gated.ministral,
    "mistral": gated.mistral,
    "mixtral": experts.mixtral,
    "mpt": classic.mpt,
    "olmo": gated.olmo,
    "olmo2": gated.olmo2,
    "olmo3": gated.olmo3,
    "olmoe": experts.olmoe,
    "opt": classic.opt,
    "phi": classic.phi,
    "phi3": gated.phi3,
    "qwen2": gated.qwen2,
    "qwen2_moe": experts.qwen2_moe,
    "qwen3": gated.qwen3,
    "qwen3_moe": experts.qwen3_moe,
    "seed_oss": gated.seed_oss,
    "smollm3": gated.smollm3,
    "stablelm": gated.stablelm,
    "starcoder2": classic.starcoder2,
}
# The other name by which transformers takes a key (its attribute_map), by model type.
_GPT2_ALIASES: Final = {
    "n_embd": "hidden_size",
    "n_positions": "max_position_embeddings",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
}
_ALIASES: Final[dict[str, dict[str, str]]] = {
    "gpt2": _GPT2_ALIASES,
    "gptj": _GPT2_ALIASES,
    "gpt_bigcode": _GPT2_ALIASES,
    "bloom": {"n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "hidden_size": "n_embed"},
    "falcon": {"hidden_size": "n_embed"},
    "mpt": {"n_heads": "num_attention_heads", "d_model": "hidden_size", "n_layers": "num_hidden_layers"},
    "mixtral": {"num_local_experts": "num_experts"},
    "gpt_oss": {"num_local_experts": "num_experts"},
    "qwen3_moe": {"num_experts": "num_local_experts"},
    "olmoe": {"num_experts": "num_local_experts"},
    "deepseek_v2": {"n_routed_experts": "num_experts"},
    "deepseek_v3": {"n_routed_experts": "num_local_experts"},
    "glm4_moe": {"n_routed_experts": "num_local_experts"},
}
# What a type calls its width and its heads, where it is not hidden_size and num_attention_heads.
_HEAD_KEYS: Final = {
    "gpt2": ("n_embd", "n_head"),
    "gptj": ("n_embd", "n_head"),
    "gpt_bigcode": ("n_embd", "n_head"),
    "bloom": ("hidden_size", "n_head"),
    "mpt": ("d_model", "n_heads"),
}


def model_types() -> tuple[str, ...]:
    """The model_type values of config.json that have a closed form."""
    return tuple(_TYPES)


def config_fields(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The fields of the spec that a config.json describes; `source` names it in errors.

    Of a multimodal model it is the text part that is described (its text_config), and `part` says so. Raises
    UnknownModelError for a type without a closed form, InputError naming the key that is missing or wrong. No code
    that a config names (auto_map) is looked at, and no other file is opened.
    """
    model_type = _model_type(config, source)
    nested = config.get("text_config")
    if model_type in _TYPES or nested is None:
        return _fields(config, model_type, source, is_nested=False)
    if not isinstance(nested, dict):
        raise InputError(f"{source}: text_config={reprlib.repr(nested)} is not a table of keys", hint="correct it")
    if "tie_word_embeddings" in config:  # the head is the whole model's, so its word counts (transformers 5)
        nested = {**nested, "tie_word_embeddings": config["tie_word_embeddings"]}
    nested_type = _model_type(nested, f"{source}: text_config")
    return {"part": "text part", **_fields(nested, nested_type, source, is_nested=True)}


def _fields(config: Mapping[str, Any], model_type: str, source: str, *, is_nested: bool) -> dict[str, Any]:
    read = _TYPES.get(model_type)
    if read is None:
        raise _unknown(config, model_type, source)
    reader = ConfigReader(
        config=config,
        model_type=model_type,
        source=source,
        defaults=_defaults()[model_type],
        aliases=_ALIASES.get(model_type, {}),
        is_nested=is_nested,
    )
    for key, usual in (("is_encoder_decoder", False), ("add_cross_attention", False), ("pruned_heads", {})):
        reader.must_be(key, usual=usual)
    fields = read(reader)
    _check_heads(reader, fields)
    return fields


def _check_heads(reader: ConfigReader, fields: Mapping[str, Any]) -> None:
    """Say in the config's own words what ModelSpec would say in its own."""
    width, heads = _HEAD_KEYS.get(reader.model_type, ("hidden_size", "num_attention_heads"))
    if "d_head" not in fields and "mla" not in fields and fields["d_model"] % fields["n_heads"]:
        raise reader.error(
            width, f"is not divisible by {heads}={fields['n_heads']}", hint="give head_dim if that is so"
        )
    n_kv_heads = fields.get("n_kv_heads", 1)
    if fields["n_heads"] % n_kv_heads:
        key = "num_kv_heads" if reader.model_type == "falcon" else "num_key_value_heads"
        raise reader.error(key, f"does not divide {heads}={fields['n_heads']}")


def _model_type(config: Mapping[str, Any], source: str) -> str:
    model_type = config.get("model_type")
    if model_type is None:
        raise InputError(f"{source}: model_type is missing", hint="a config.json names its type, like 'llama'")
    if not isinstance(model_type, str):
        raise InputError(f"{source}: model_type={reprlib.repr(model_type)} is not a text", hint="like 'llama'")
    return model_type


def _unknown(config: Mapping[str, Any], model_type: str, source: str) -> UnknownModelError:
    import difflib

    near = difflib.get_close_matches(model_type, _TYPES, n=3)
    hint = f"nearest known types: {', '.join(near)}; " if near else ""
    code = " (its auto_map names code in the model's folder, which is never run)" if "auto_map" in config else ""
    shown = reprlib.repr(model_type)
    return UnknownModelError(
        f"{source}: model_type={shown} has no closed form here{code}",
        hint=f"{hint}count it with --trace, as transformers builds it, or --trace package.module:factory",
    )


@functools.cache
def _defaults() -> dict[str, dict[str, Any]]:
    text = Path(__file__).with_name("defaults.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
