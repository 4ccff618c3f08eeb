"""The operator memo: on tensors without data, equal calls have equal costs and equal results.

What a functional operator makes depends on nothing but the operator, the shapes, strides and dtypes of its tensors and
its other arguments. So it is run once for each distinct call; from then on the recorder makes the result itself.
Views, data-dependent operators, tensor subclasses and tensors with data are always run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from flopwatch.trace.cost import OpCost, Operator, tensors_in

_empty_strided: Final = torch.empty_strided
_STRIDED: Final = torch.strided
_META: Final = torch.device("meta")


class TensorSpec(NamedTuple):
    """All that a plain tensor without data is, and the bytes of its storage."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    n_bytes: int

    def make(self) -> Tensor:
        """A new tensor like this, with a storage of its own."""
        shape, stride, dtype, _ = self
        return _empty_strided(shape, stride, dtype=dtype, device=_META)


def _spec_of(tensor: Tensor) -> TensorSpec:
    return TensorSpec(tensor.shape, tensor.stride(), tensor.dtype, tensor.untyped_storage().nbytes())


class Remembered(NamedTuple):
    """What a call costs, and how to make its result without running it (`is_repeatable`)."""

    cost: OpCost
    is_repeatable: bool
    single: TensorSpec | None = None
    several: tuple[TensorSpec | None, ...] | None = None


def call_key(operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    """What decides cost and result of a call, as a key; its last entry is whether no tensor has data.

    None where that cannot be said: a tensor subclass, a layout other than strided, an argument without a hash.
    """
    parts: list[Any] = [operator]
    is_meta = True
    try:
        for arg in (*args, *kwargs.items()) if kwargs else args:
            kind = arg.__class__
            if kind is Tensor or kind is Parameter:
                if arg.layout is not _STRIDED:  # how much work it is depends on its stored elements
                    return None
                parts += (arg.shape, arg.stride(), arg.dtype)
                if not arg.is_meta:
                    is_meta = False
            elif kind is list or kind is tuple:
                state = _add_items(parts, kind, arg)
                if state is None:
                    return None
                is_meta = is_meta and state
            elif isinstance(arg, Tensor):
                return None
            else:
                parts += (kind, arg)
    except RuntimeError:  # an old nested tensor has no shape
        return None
    parts.append(is_meta)
    return tuple(parts)


def _add_items(parts: list[Any], kind: type, items: Sequence[Any]) -> bool | None:
    """Add a list to a key: whether its tensors have no data, None where one of them is no plain tensor."""
    is_meta = True
    parts.append(kind)
    for item in items:
        if isinstance(item, Tensor):
            if (item.__class__ is not Tensor and item.__class__ is not Parameter) or item.layout is not _STRIDED:
                return None
            parts += (item.shape, item.stride(), item.dtype)
            is_meta = is_meta and item.is_meta
        else:
            parts += (item.__class__, item)
    parts.append(kind)
    return is_meta


def remember(cost: OpCost, args: Sequence[Any], out: Any) -> Remembered:
    """What to remember of a functional call that has just run."""
    if isinstance(out, Tensor):
        results: Sequence[Any] = (out,)
    elif isinstance(out, tuple) and all(item is None or isinstance(item, Tensor) for item in out):
        results = out
    else:
        return Remembered(cost, is_repeatable=False)
    made = [item for item in results if item is not None]
    if not all(item.__class__ is Tensor and item.is_meta and not item.dtype.is_complex for item in made):
        return Remembered(cost, is_repeatable=False)
    storages = {item.untyped_storage()._cdata for item in made}
    if len(storages) < len(made) or any(t.untyped_storage()._cdata in storages for t in tensors_in(args)):
        return Remembered(cost, is_repeatable=False)  # the results share memory: a view under another name
    specs = tuple(None if item is None else _spec_of(item) for item in results)
    if isinstance(out, Tensor):
        return Remembered(cost, is_repeatable=True, single=specs[0])
    return Remembered(cost, is_repeatable=True, several=specs)
