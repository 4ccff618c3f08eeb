"""What runs above the operators: a function mode sees attention and operators over functions as they are called."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from flopwatch.trace.attention import FUSED, AttentionCall, Implementation, fits_fused, fused_stand_in, may_fuse
from flopwatch.trace.autograd_names import engine_runs_in
from flopwatch.trace.higher_order import UNROLLED, unroll
from flopwatch.trace.modules import ModuleStack, Place

if TYPE_CHECKING:
    from flopwatch.trace.recorder import Recorder

_SDPA: Final = F.scaled_dot_product_attention
_SEEN: Final = frozenset({_SDPA, F.multi_head_attention_forward, torch.autograd.grad, torch.Tensor.backward})


class FunctionMode(TorchFunctionMode):
    """Sees what torch takes apart before any operator runs: attention on every device, and operators over functions.

    It also notes a backward pass with `create_graph`, whose operators look like a forward otherwise.
    """

    def __init__(self, recorder: Recorder, stack: ModuleStack, implementation: Implementation) -> None:
        super().__init__()
        self._stack = stack
        self._implementation = implementation
        self._recorder = recorder
        self._places: dict[tuple[Any, ...], Place] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a function of torch, attention under its own name and place."""
        if func not in _SEEN and not isinstance(func, torch._ops.HigherOrderOperator):
            return func(*args, **kwargs) if kwargs else func(*args)
        kwargs = kwargs or {}
        if func is _SDPA:
            return self.attend(*args, **kwargs)
        if func is F.multi_head_attention_forward:  # it calls attention itself, out of sight of a mode
            with self._patched():
                return func(*args, **kwargs)
        if isinstance(func, torch._ops.HigherOrderOperator) and func.name() in UNROLLED and not kwargs:
            with self:
                return unroll(self._recorder, func.name(), args)
        if func is torch.autograd.grad or func is torch.Tensor.backward:
            self._recorder.attribution.creates_graph |= _asks_for_graph(func, args, kwargs)
            with engine_runs_in(self):
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,  # noqa: FBT001, FBT002 (torch's signature)
        **more: Any,
    ) -> torch.Tensor:
        """What `F.scaled_dot_product_attention` gives, its operators noted as one attention call."""
        place = self._place(query, key, value, attn_mask, dropout_p, is_causal)
        outer, self._stack.place = self._stack.place, place
        try:
            result = self._run(query, key, value, attn_mask, dropout_p, is_causal, more)
        finally:
            self._stack.place = outer
        if place.attention.implementation is None:
            is_fused = any(name.startswith(FUSED) for name in self._recorder.ops_at(place))
            place.attention.implementation = "flash" if is_fused else "math"
            if self._implementation == "flash" and not is_fused:
                shape = list(query.shape)
                self._recorder.notes.add(
                    f"attention=flash: torch has no fused kernel for queries {shape} here, math ran"
                )
        return result

    def _run(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        dropout_p: float,
        is_causal: bool,  # noqa: FBT001
        more: Mapping[str, Any],
    ) -> torch.Tensor:
        wants_fused = self._implementation == "flash" or (self._implementation == "auto" and may_fuse())
        is_grouped = bool(more.get("enable_gqa"))
        if wants_fused and query.is_meta and fits_fused(query, key, value, mask, is_grouped=is_grouped):
            return fused_stand_in(query, key, value, mask, is_causal, more.get("scale"))
        choice = sdpa_kernel(SDPBackend.MATH) if self._implementation == "math" else contextlib.nullcontext()
        with choice:
            return _SDPA(query, key, value, attn_mask=mask, dropout_p=dropout_p, is_causal=is_causal, **more)

    def _place(self, query: Any, key: Any, value: Any, mask: Any, dropout_p: float, is_causal: bool) -> Place:  # noqa: FBT001
        mask_shape = None if mask is None else tuple(mask.shape)
        mask_dtype = None if mask is None else str(mask.dtype).removeprefix("torch.")
        shapes = (tuple(query.shape), tuple(key.shape), tuple(value.shape))
        outer = self._stack.place
        name = (outer, *shapes, mask_shape, mask_dtype, dropout_p, is_causal, query.is_meta)
        place = self._places.get(name)
        if place is None:
            call = AttentionCall(
                query=shapes[0],
                key=shapes[1],
                value=shapes[2],
                is_causal=is_causal,
                mask=mask_shape,
                mask_dtype=mask_dtype,
                dropout_p=dropout_p,
            )
            place = self._places[name] = Place(outer.root, outer.path, call)
        return place

    @contextlib.contextmanager
    def _patched(self) -> Iterator[None]:
        """`F.multi_head_attention_forward` looks attention up in its module: show it ours while it runs."""
        F.scaled_dot_product_attention = self.attend  # type: ignore[assignment]
        try:
            yield
        finally:
            F.scaled_dot_product_attention = _SDPA


def _asks_for_graph(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    where = 4 if func is torch.autograd.grad else 3  # outputs, inputs, grads, retain, create | self, gradient, retain
    return bool(kwargs.get("create_graph", args[where] if len(args) > where else False))
