"""Reads keys of a config.json: each value checked, each error naming the file, the key and the value."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping
from typing import Any, Final, Literal

from flopwatch.errors import InputError

_MOST: Final = 1 << 40  # as in spec.py: past any network
_MOST_LAYERS: Final = 1 << 20
_LAYER_KEYS: Final = frozenset({"num_hidden_layers", "n_layer", "n_layers"})
_GELU: Final = frozenset(
    {"gelu", "gelu_new", "gelu_fast", "gelu_accurate", "gelu_python", "gelu_python_tanh", "gelu_pytorch_tanh"}
)
_FFN_PLAIN: Final[dict[str, Literal["gelu", "relu"]]] = {"gelu": "gelu", "relu": "relu"}
_FFN_GATED: Final[dict[str, Literal["swiglu", "geglu"]]] = {"silu": "swiglu", "gelu": "geglu"}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ConfigReader:
    """One config.json (or its text_config): values by key, the model type's defaults behind them.

    `defaults` are transformers' own. The sizes that make the network are not taken from them, because transformers
    always writes those; only a nested config (`is_nested`), of which transformers writes the differences, may leave
    them out.
    """

    config: Mapping[str, Any]
    model_type: str
    source: str
    defaults: Mapping[str, Any]
    aliases: Mapping[str, str]
    is_nested: bool = False

    def size(self, key: str) -> int:
        """A positive whole number that must be there (in a nested config: or transformers' default)."""
        if not self.is_nested and key not in self.config and self.aliases.get(key) not in self.config:
            raise InputError(f"{self._where(key)} is missing", hint=f"every config.json of a {self.model_type} has it")
        return self.size_or_default(key)

    def size_or_default(self, key: str) -> int:
        """A positive whole number; transformers' default when the key is left out."""
        value = self.size_or_none(key)
        if value is None:
            raise InputError(f"{self._where(key)} is null or missing", hint="give it as a positive whole number")
        return value

    def size_or_none(self, key: str) -> int | None:
        """A positive whole number, or None for null and for a key left out that has no default."""
        value = self.value(key)
        return None if value is None else self._whole(key, value, least=1)

    def count(self, key: str) -> int:
        """A whole number that may be 0; 0 for null and for a key left out that has no default."""
        value = self.value(key)
        return 0 if value is None else self._whole(key, value, least=0)

    def flag(self, key: str) -> bool:
        """True or false; false for null, as transformers reads it, and for a key that this type does not know."""
        value = self.value(key) if key in self.defaults else False
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.error(key, "is not true or false")
        return value

    def numbers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers (layer numbers); empty for null."""
        value = self.value(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.error(key, "is not a list of layer numbers")
        return tuple(self._whole(key, number, least=0) for number in value)

    def texts(self, key: str) -> list[str] | None:
        """A list of texts (layer types); None for null or a key left out."""
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self.error(key, "is not a list of texts")
        return value

    def plain_ffn(self, key: str) -> Literal["gelu", "relu"]:
        """The FFN of two matrices with this activation."""
        return _FFN_PLAIN[self._activation(key, _FFN_PLAIN)]

    def gated_ffn(self, key: str) -> Literal["swiglu", "geglu"]:
        """The FFN of three matrices with this activation of its gate."""
        return _FFN_GATED[self._activation(key, _FFN_GATED)]

    def must_be(self, key: str, *, usual: object) -> None:
        """Raise InputError when the key has another value than the one for which this type's closed form holds."""
        value = self.config.get(key)
        if value is None or (value == usual and type(value) is type(usual)):
            return
        rule = f"is a variant without a closed form here (only {usual!r} has one)"
        raise self.error(key, rule, hint="use count --trace")

    def value(self, key: str) -> Any:
        """The value as it stands, by the key or the other name that transformers takes for it; else the default."""
        alias = self.aliases.get(key)
        if alias is not None and alias in self.config:
            if key in self.config and self.config[key] != self.config[alias]:
                raise self.error(key, f"contradicts {alias}={reprlib.repr(self.config[alias])}", hint="keep one")
            return self.config[alias]
        return self.config.get(key, self.defaults.get(key))

    def error(self, key: str, rule: str, *, hint: str = "correct it in the config.json") -> InputError:
        """An InputError that names the file, the key and its value."""
        shown = reprlib.repr(self.value_or_none(key)).replace("\n", " ")
        return InputError(f"{self._where(key)}={shown} {rule}", hint=hint)

    def value_or_none(self, key: str) -> Any:
        """The value as it stands under the key itself or its other name, contradictions aside."""
        return self.config.get(key, self.config.get(self.aliases.get(key, key)))

    def _whole(self, key: str, value: Any, *, least: int) -> int:
        kind = "positive whole number" if least else "whole number from 0"
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.error(key, f"is not a {kind}")
        if value > (_MOST_LAYERS if key in _LAYER_KEYS else _MOST):
            raise self.error(key, "is larger than any network's")
        return value

    def _activation(self, key: str, known: Mapping[str, str]) -> str:
        value = self.value(key)
        name = self.defaults.get(key) if value is None else value
        name = {"swish": "silu", "relu2": "relu"}.get(name, name) if isinstance(name, str) else name
        name = "gelu" if isinstance(name, str) and name in _GELU else name
        if not isinstance(name, str) or name not in known:
            raise self.error(key, "is no activation known for this model type", hint="use count --trace")
        return name

    def _where(self, key: str) -> str:
        return f"{self.source}: {'text_config.' if self.is_nested else ''}{key}"
