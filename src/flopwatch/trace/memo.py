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
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import Parameter

from flopwatch.trace.cost import OpCost, Operator, tensors_in
from flopwatch.trace.without_data import is_plain_fake, make_fake, make_meta

_STRIDED: Final = torch.strided
_PLAIN: Final = frozenset({Tensor, Parameter, FakeTensor})

Home = bool | FakeTensorMode
"""Where the tensors of a call live: True when none has data, False when one has, or the mode that they are fakes of."""


class TensorSpec(NamedTuple):
    """All that a plain tensor without data is, and the bytes of its storage; of a fake one its mode and device too."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    n_bytes: int
    mode: FakeTensorMode | None = None
    device: torch.device | None = None

    def make(self) -> Tensor:
        """A new tensor like this, with a storage of its own."""
        shape, stride, dtype, _, mode, device = self
        if mode is None or device is None:
            return make_meta(shape, stride, dtype)
        return make_fake(mode, device, shape, stride, dtype)


def _spec_of(tensor: Tensor) -> TensorSpec:
    n_bytes = tensor.untyped_storage().nbytes()
    if isinstance(tensor, FakeTensor):
        return TensorSpec(tensor.shape, tensor.stride(), tensor.dtype, n_bytes, tensor.fake_mode, tensor.fake_device)
    return TensorSpec(tensor.shape, tensor.stride(), tensor.dtype, n_bytes)


class Remembered(NamedTuple):
    """What a call costs, and how to make its result without running it (`is_repeatable`)."""

    cost: OpCost
    is_repeatable: bool
    single: TensorSpec | None = None
    several: tuple[TensorSpec | None, ...] | None = None


def call_key(operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    """What decides cost and result of a call, as a key; its last entry is the Home of its tensors.

    None where that cannot be said: a tensor subclass, a fake tensor that is more than its shape or stands beside
    tensors with data, a layout other than strided, an argument without a hash.
    """
    parts: list[Any] = [operator]
    try:
        home = _add_items(parts, (*args, *kwargs.items()) if kwargs else args)
    except RuntimeError:  # an old nested tensor has no shape
        return None
    if home is None:
        return None
    parts.append(home)
    return tuple(parts)


def _add_items(parts: list[Any], items: Sequence[Any]) -> Home | None:
    """Add arguments, or a list among them, to a key: the Home of their tensors, None where there is no key."""
    home: Home = True
    for item in items:
        kind = item.__class__
        if kind in _PLAIN:
            own = _add_tensor(parts, item)
        elif kind is list or kind is tuple:
            parts.append(kind)
            own = _add_items(parts, item)
            parts.append(kind)
        elif isinstance(item, Tensor):
            return None
        else:
            parts += (kind, item)
            continue
        if own is None:
            return None
        if home is True:
            home = own
        elif own is not True and own is not home:
            return None
    return home


def _add_tensor(parts: list[Any], tensor: Tensor) -> Home | None:
    """Add a tensor to a key: its Home, None where it is more than its shape, strides and dtype."""
    if tensor.layout is not _STRIDED:  # how much work it is depends on its stored elements
        return None
    parts += (tensor.shape, tensor.stride(), tensor.dtype)
    if not isinstance(tensor, FakeTensor):
        return bool(tensor.is_meta)
    parts.append(tensor.fake_device)
    mode: FakeTensorMode = tensor.fake_mode
    return mode if is_plain_fake(tensor) else None


def remember(cost: OpCost, args: Sequence[Any], out: Any, home: Home) -> Remembered:
    """What to remember of a functional call that has just run on tensors without data."""
    if isinstance(out, Tensor):
        results: Sequence[Any] = (out,)
    elif isinstance(out, tuple) and all(item is None or isinstance(item, Tensor) for item in out):
        results = out
    else:
        return Remembered(cost, is_repeatable=False)
    made = [item for item in results if item is not None]
    if not all(_is_plain(item, home) for item in made):
        return Remembered(cost, is_repeatable=False)
    storages = {item.untyped_storage()._cdata for item in made}
    if len(storages) < len(made) or any(t.untyped_storage()._cdata in storages for t in tensors_in(args)):
        return Remembered(cost, is_repeatable=False)  # the results share memory: a view under another name
    specs = tuple(None if item is None else _spec_of(item) for item in results)
    if isinstance(out, Tensor):
        return Remembered(cost, is_repeatable=True, single=specs[0])
    return Remembered(cost, is_repeatable=True, several=specs)


def _is_plain(made: Tensor, home: Home) -> bool:
    """Whether a result is all in its shape, strides and dtype, and lives where the arguments do."""
    if made.dtype.is_complex or made.layout is not _STRIDED:
        return False
    if home is True:
        return made.__class__ is Tensor and made.is_meta
    return is_plain_fake(made) and isinstance(made, FakeTensor) and made.fake_mode is home
