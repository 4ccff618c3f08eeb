"""Tensors without data, made and viewed without running a kernel: plain ones on `meta`, and fake ones of a mode.

torch's private names for this are all in this file (tests/test_trace_memo.py shows that what it makes is as torch
makes it).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager

_empty_strided: Final = torch.empty_strided
_no_dispatch: Final = torch._C._DisableTorchDispatch
_META: Final = torch.device("meta")

no_functions: Final = torch._C.DisableTorchFunction
"""A context in which no function mode and no `__torch_function__` of a class is asked.

While a backward pass runs under a function mode, reading a tensor's shape in Python is a call of that mode; for fake
tensors it is one of their class at any time. That is several times the cost of writing an operator down.
"""


def bare_call(func: Any) -> Callable[..., Any]:
    """What an operator overload calls, without the Python method around it."""
    call: Callable[..., Any] = func._op if type(func) is torch._ops.OpOverload else func
    return call


def is_plain_mode(mode: FakeTensorMode) -> bool:
    """Whether the fake tensors of a mode are nothing but shapes: no symbolic sizes, no values kept beside them."""
    return mode.shape_env is None and not mode.propagate_real_tensors


def is_plain_fake(tensor: Any) -> bool:
    """Whether this is a fake tensor that is nothing but its shape (small constants keep their values)."""
    return tensor.__class__ is FakeTensor and tensor.constant is None and is_plain_mode(tensor.fake_mode)


def make_meta(shape: torch.Size, stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A new tensor on `meta` with a storage of its own."""
    return _empty_strided(shape, stride, dtype=dtype, device=_META)


def make_fake(
    mode: FakeTensorMode, device: torch.device, shape: torch.Size, stride: tuple[int, ...], dtype: torch.dtype
) -> FakeTensor:
    """A new fake tensor on `device` with a storage of its own."""
    with _no_dispatch():
        inner = _empty_strided(shape, stride, dtype=dtype, device=_META)
    return FakeTensor(mode, inner, device)


def view_of_fake(call: Callable[..., Any], args: Any, kwargs: Any) -> FakeTensor | list[FakeTensor]:
    """The view, or the list of views, that an operator makes of its first argument, a plain fake tensor."""
    base = args[0]
    mode = base.fake_mode
    with in_kernel_invocation_manager(mode):
        view = call(*args, **kwargs) if kwargs else call(*args)
    if isinstance(view, Tensor):
        return FakeTensor(mode, view, base.fake_device)
    return [FakeTensor(mode, one, base.fake_device) for one in view]
