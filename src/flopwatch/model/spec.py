"""ModelSpec: a decoder-only transformer as numbers, checked once when it is made."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args, get_origin

import msgspec

from flopwatch.errors import SpecError
from flopwatch.fields import check_fields

# A field left out is worked out from the others in __post_init__, so that every reader sees an int.
_DERIVED: Any = None
_MOST: Final = 1 << 40  # past any network; keeps a typing slip from becoming an absurd count
_MOST_LAYERS: Final = 1 << 20  # layers are gone through one by one, widths are not
_LONGEST: Final = 300  # characters of a message that may quote what a file holds


class MoESpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mixture of experts in place of the FFN: `n_experts` of width `d_ff_expert`, `experts_per_token` of them active.

    `d_ff_shared` is the width of the experts that every token passes, all together. The layers before
    `first_dense_layers`, those off the `layer_step` grid and those named in `dense_layers` (from 0) keep the dense FFN.
    """

    n_experts: int
    experts_per_token: int
    d_ff_expert: int
    n_shared_experts: int = 0
    d_ff_shared: int = _DERIVED
    first_dense_layers: int = 0
    layer_step: int = 1
    dense_layers: tuple[int, ...] = ()
    router_bias: bool = False
    expert_bias: bool = False
    shared_bias: bool = False
    shared_gate: bool = False

    def __post_init__(self) -> None:
        check_fields(self, SpecError, prefix="moe.")
        if self.d_ff_shared is None:
            msgspec.structs.force_setattr(self, "d_ff_shared", self.n_shared_experts * self.d_ff_expert)
        _check_positive(self, "n_experts", "experts_per_token", "d_ff_expert", "layer_step", prefix="moe.")
        _check_not_negative(self, "n_shared_experts", "d_ff_shared", "first_dense_layers", prefix="moe.")
        if self.experts_per_token > self.n_experts:
            raise SpecError(
                f"moe.experts_per_token={self.experts_per_token} is more than moe.n_experts={self.n_experts}",
                hint="a token passes at most every expert",
            )
        if list(self.dense_layers) != sorted({layer for layer in self.dense_layers if layer >= 0}):
            raise SpecError(
                f"moe.dense_layers={list(self.dense_layers)} is not a rising list of layer numbers",
                hint="layers are numbered from 0",
            )
        if (self.d_ff_shared > 0) != (self.n_shared_experts > 0):
            raise SpecError(
                f"moe.d_ff_shared={self.d_ff_shared} contradicts moe.n_shared_experts={self.n_shared_experts}",
                hint="give both, or neither",
            )


class MLASpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Multi-head latent attention (DeepSeek-V2): low-rank queries (`q_rank` 0: full rank), keys and values."""

    kv_rank: int
    d_nope: int
    d_rope: int
    d_value: int
    q_rank: int = 0

    def __post_init__(self) -> None:
        check_fields(self, SpecError, prefix="mla.")
        _check_positive(self, "kv_rank", "d_nope", "d_rope", "d_value", prefix="mla.")
        _check_not_negative(self, "q_rank", prefix="mla.")


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A decoder-only transformer as numbers: layers, widths, heads. Knows no batch, dtype or device.

    Raises SpecError (exit code 2) when the numbers describe no network. Fields left out are derived:
    `n_kv_heads` = `n_heads`, `d_head` = `d_model / n_heads`, `d_ff` = `4 d_model`, the biases from `bias`.
    `window_pattern` is read cyclically over the layers: `L` a layer with the window, `G` one that sees everything.
    """

    name: str = "custom"
    n_layers: int
    d_model: int
    n_heads: int
    vocab_size: int
    n_kv_heads: int = _DERIVED
    d_head: int = _DERIVED
    d_ff: int = _DERIVED
    ffn: Literal["gelu", "relu", "swiglu", "geglu"] = "gelu"
    padded_vocab_size: int = _DERIVED
    tied_head: bool = False
    positions: Literal["learned", "rope", "alibi", "none"] = "learned"
    max_seq_len: int = 1024
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    bias: bool = True
    qkv_bias: bool = _DERIVED
    out_bias: bool = _DERIVED
    ffn_bias: bool = _DERIVED
    norm_bias: bool = _DERIVED
    head_bias: bool = False
    window: int | None = None
    window_pattern: str = _DERIVED
    parallel_block: bool = False
    moe: MoESpec | None = None
    mla: MLASpec | None = None
    n_mtp_layers: int = 0
    # What some families add; each changes the parameters, few the FLOPs.
    qk_norm: Literal["none", "per_head", "full"] = "none"
    norms_per_layer: int = 2
    embedding_norm: bool = False
    final_norm: bool = True
    d_embed: int = _DERIVED
    n_extra_positions: int = 0
    attention_sinks: bool = False
    norm_affine: bool = True

    def __post_init__(self) -> None:
        _check_positive(self, "n_layers", "d_model", "n_heads", "vocab_size", "max_seq_len")
        check_fields(self, SpecError)
        self._derive()
        _check_positive(self, "n_kv_heads", "d_head", "d_ff", "padded_vocab_size", "d_embed")
        _check_not_negative(self, "n_mtp_layers", "norms_per_layer", "n_extra_positions")
        self._check_heads()
        self._check_window()
        self._check_layers()
        if self.padded_vocab_size < self.vocab_size:
            raise SpecError(
                f"padded_vocab_size={self.padded_vocab_size} is below vocab_size={self.vocab_size}",
                hint="padding only adds rows; leave it out for none",
            )

    def _derive(self) -> None:
        derived: dict[str, Any] = {
            "n_kv_heads": self.n_heads,
            "d_ff": 4 * self.d_model,
            "padded_vocab_size": self.vocab_size,
            "qkv_bias": self.bias,
            "out_bias": self.bias,
            "ffn_bias": self.bias,
            "norm_bias": self.norm == "layernorm",
            "window_pattern": "L" if self.window is not None else "G",
            "d_embed": self.d_model,
        }
        if self.d_head is None:
            if self.mla is not None:
                derived["d_head"] = self.mla.d_nope + self.mla.d_rope
            elif self.d_model % self.n_heads:
                raise SpecError(
                    f"d_model={self.d_model} is not divisible by n_heads={self.n_heads}",
                    hint="give d_head if the heads are not d_model / n_heads wide",
                )
            else:
                derived["d_head"] = self.d_model // self.n_heads
        for field, value in derived.items():
            if getattr(self, field) is None:
                msgspec.structs.force_setattr(self, field, value)

    def _check_heads(self) -> None:
        if self.n_heads % self.n_kv_heads:
            raise SpecError(
                f"n_heads={self.n_heads} is not divisible by n_kv_heads={self.n_kv_heads}",
                hint="every key-value head serves the same number of query heads",
            )

    def _check_layers(self) -> None:
        if self.n_layers > _MOST_LAYERS:
            raise SpecError(f"n_layers={self.n_layers} is more than {_MOST_LAYERS}", hint="no network has so many")
        if self.moe is None:
            return
        if self.moe.first_dense_layers > self.n_layers:
            raise SpecError(
                f"moe.first_dense_layers={self.moe.first_dense_layers} is more than n_layers={self.n_layers}",
                hint="it counts the leading layers that keep the dense FFN",
            )
        if self.moe.dense_layers and self.moe.dense_layers[-1] >= self.n_layers:
            raise SpecError(
                f"moe.dense_layers names layer {self.moe.dense_layers[-1]} of n_layers={self.n_layers}",
                hint="layers are numbered from 0",
            )

    def _check_window(self) -> None:
        if self.window is not None and not 0 < self.window <= _MOST:
            raise SpecError(f"window={self.window} is not a positive number of tokens", hint="leave it out for none")
        if not re.fullmatch("[LG]+", self.window_pattern):
            raise SpecError(
                f"window_pattern={self.window_pattern!r} is not made of L and G",
                hint="L is a layer with the window, G a layer that sees everything; it repeats over the layers",
            )
        if "L" in self.window_pattern and self.window is None:
            raise SpecError(
                f"window_pattern={self.window_pattern!r} has windowed layers but window is not given",
                hint="give window, or leave the pattern out",
            )

    @property
    def is_gated(self) -> bool:
        """Whether the FFN has three matrices (gate, up, down) instead of two."""
        return self.ffn in {"swiglu", "geglu"}

    @property
    def d_query(self) -> int:
        """Width of all query heads together."""
        return self.n_heads * self.d_head

    @property
    def d_kv(self) -> int:
        """Width of all key (or value) heads together."""
        return self.n_kv_heads * self.d_head

    @property
    def d_attention_out(self) -> int:
        """Width of the attention result before its output projection."""
        return self.d_query if self.mla is None else self.n_heads * self.mla.d_value

    @property
    def n_moe_layers(self) -> int:
        """Layers whose FFN is a mixture of experts."""
        if self.moe is None:
            return 0
        on_grid = (self.n_layers - self.moe.first_dense_layers) // self.moe.layer_step
        return on_grid - sum(self._is_on_grid(layer) for layer in self.moe.dense_layers)

    @property
    def n_dense_layers(self) -> int:
        """Layers with a dense FFN."""
        return self.n_layers - self.n_moe_layers

    @property
    def n_windowed_layers(self) -> int:
        """Layers that attend within the window."""
        whole, rest = divmod(self.n_layers, len(self.window_pattern))
        return whole * self.window_pattern.count("L") + self.window_pattern[:rest].count("L")

    def is_windowed(self, layer: int) -> bool:
        """Whether layer number `layer` (from 0) attends within the window."""
        return self.window_pattern[layer % len(self.window_pattern)] == "L"

    def is_moe(self, layer: int) -> bool:
        """Whether layer number `layer` (from 0) has experts: every `layer_step`-th one after the dense ones."""
        return self._is_on_grid(layer) and self.moe is not None and layer not in self.moe.dense_layers

    def _is_on_grid(self, layer: int) -> bool:
        if self.moe is None or layer < self.moe.first_dense_layers:
            return False
        return (layer - self.moe.first_dense_layers + 1) % self.moe.layer_step == 0

    def check_seq_len(self, seq_len: int) -> None:
        """Raise SpecError when a sequence of `seq_len` tokens is longer than the context."""
        if seq_len > self.max_seq_len:
            raise SpecError(
                f"seq_len={seq_len} is longer than the context of {self.name}, {self.max_seq_len}",
                hint=f"use --seq {self.max_seq_len} or less, or --set max_seq_len={seq_len}",
            )

    def to_dict(self) -> dict[str, Any]:
        """All fields, derived ones filled in, as plain data."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields


def spec_from_fields(fields: Mapping[str, Any]) -> ModelSpec:
    """The ModelSpec of a mapping of its fields; raises SpecError naming the field that is wrong."""
    known = {field.name for field in msgspec.structs.fields(ModelSpec)}
    for name in fields:
        if name not in known:
            import difflib  # only a wrong field pays for it

            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else "the fields of a spec are listed in docs/models.md"
            raise SpecError(f"{reprlib.repr(name)} is not a field of a model", hint=hint)
    try:
        return msgspec.convert(dict(fields), ModelSpec, strict=True)
    except msgspec.ValidationError as error:
        raise _as_spec_error(error, fields) from error


def _as_spec_error(error: msgspec.ValidationError, fields: Mapping[str, Any]) -> SpecError:
    """msgspec's message with the field's name first: `n_layers: expected int, got str`."""
    text, _, where = str(error).partition(" - at `$")
    field = where.rstrip("`").lstrip(".")
    literals = {f.name: get_args(f.type) for f in msgspec.structs.fields(ModelSpec) if get_origin(f.type) is Literal}
    if field in literals and isinstance(fields[field], str):
        allowed = ", ".join(str(value) for value in literals[field])
        return SpecError(f"{field}={reprlib.repr(fields[field])} is not one of {allowed}", hint="choose one of them")
    text = text[0].lower() + text[1:]
    message = f"{field}: {text}" if field else text.replace("object", "model", 1)
    shown = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}..."
    return SpecError(shown, hint="see the fields of a spec in docs/models.md")


def _check_positive(struct: msgspec.Struct, *names: str, prefix: str = "") -> None:
    for name in names:
        value = getattr(struct, name)
        if not isinstance(value, int) or not 0 < value <= _MOST:
            raise SpecError(
                f"{prefix}{name}={value} is not a positive whole number", hint="sizes and counts start at 1"
            )


def _check_not_negative(struct: msgspec.Struct, *names: str, prefix: str = "") -> None:
    for name in names:
        value = getattr(struct, name)
        if not isinstance(value, int) or not 0 <= value <= _MOST:
            raise SpecError(f"{prefix}{name}={value} is negative or not a whole number", hint="use 0 for none")
