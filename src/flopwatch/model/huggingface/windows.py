"""Which layers attend within a sliding window: layer_types and the older ways to say it."""

from __future__ import annotations

import reprlib
from typing import Any

from flopwatch.model.huggingface.reader import ConfigReader

_LETTER = {"full_attention": "G", "sliding_attention": "L"}


def window_fields(config: ConfigReader, pattern: str) -> dict[str, Any]:
    """`window` and `window_pattern` of a type whose layers follow `pattern` unless layer_types says otherwise."""
    window = config.size_or_none("sliding_window")
    said = _layer_types(config)
    if window is None:
        if said is not None and "L" in said:
            raise config.error("sliding_window", "is not given, but layer_types has sliding_attention")
        return {}
    pattern = pattern if said is None else said
    return {"window": window, "window_pattern": pattern} if "L" in pattern else {}


def switched_window_fields(config: ConfigReader, pattern: str) -> dict[str, Any]:
    """The same for types whose window is off unless use_sliding_window is true."""
    if not config.flag("use_sliding_window"):
        _layer_types(config)
        return {}
    return window_fields(config, pattern)


def late_pattern(config: ConfigReader) -> str:
    """Full attention in the first max_window_layers layers, the window in the others (Qwen2, Qwen3)."""
    n_full = min(config.count("max_window_layers"), config.size("num_hidden_layers"))
    return "G" * n_full + "L" * (config.size("num_hidden_layers") - n_full)


def every_nth_full(n: int) -> str:
    """The window in all but every `n`-th layer."""
    return "L" * (n - 1) + "G"


def _layer_types(config: ConfigReader) -> str | None:
    """layer_types as L and G, one letter a layer, shortened to what repeats; None when the key is left out."""
    types = config.texts("layer_types")
    if types is None:
        return None
    for name in types:
        if name not in _LETTER:
            rule = f"has {reprlib.repr(name)}, which has no closed form here"
            raise config.error("layer_types", rule, hint="use count --trace")
    if len(types) != config.size("num_hidden_layers"):
        n_layers = config.size("num_hidden_layers")
        raise config.error("layer_types", f"has {len(types)} entries for num_hidden_layers={n_layers}")
    return shortest_period("".join(_LETTER[name] for name in types))


def shortest_period(pattern: str) -> str:
    """The shortest beginning that, read again and again, gives the whole pattern: LGLGL -> LG."""
    for length in range(1, len(pattern)):
        if pattern[length:] == pattern[:-length]:
            return pattern[:length]
    return pattern
