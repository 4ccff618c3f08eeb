"""Results without data for operators whose own rules for `meta` tensors refuse what the real ones compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch


def grouped_mm_result(args: Sequence[Any], kwargs: dict[str, Any]) -> torch.Tensor:
    """The result of `_grouped_mm` in any dtype: torch's rule takes bf16 only, its CPU kernel takes fp32 as well."""
    left, right = args[0], args[1]
    offsets = args[2] if len(args) > 2 else kwargs.get("offs")
    dtype = kwargs.get("out_dtype") or left.dtype
    shape: tuple[int, ...]
    if left.dim() == 2 and right.dim() == 2:
        assert offsets is not None
        shape = (offsets.shape[0], left.shape[0], right.shape[1])  # the groups cut the sum
    elif left.dim() == 3 and right.dim() == 2:
        shape = (left.shape[1], right.shape[1])
    else:
        shape = (*left.shape[:-1], right.shape[-1])
    made: torch.Tensor = left.new_empty(shape, dtype=dtype)
    return made


STAND_INS: Final[dict[str, Callable[[Sequence[Any], dict[str, Any]], torch.Tensor]]] = {
    "aten._grouped_mm": grouped_mm_result,
}
