"""Hugging Face's config.json -> the fields of a ModelSpec, without transformers and without any code of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flopwatch.errors import UnknownModelError


def config_fields(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The fields of the spec that a config.json describes; raises an InputError that names the key that is wrong."""
    raise UnknownModelError(
        f"{source}: no closed form for model_type {config.get('model_type')!r}", hint="use count --trace"
    )
