"""A budget on live tensors in this process: whoever allocates past it gets torch's own out-of-memory error."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from flopwatch.units import format_bytes

_PLAIN: Final = {torch.Tensor, torch.nn.Parameter}


class TensorBudget(TorchDispatchMode):
    """Counts the storages that operators make while it is entered, until each dies, and keeps their sum in a budget.

    Tensors that were there before are not counted, nor what a kernel takes for itself while it runs. Any device's
    tensors count, those on `meta` too: a step on `meta` has its real sizes and takes no memory.
    """

    def __init__(self, budget_bytes: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.budget_bytes = budget_bytes
        self.allocated_bytes = 0
        self.peak_bytes = 0
        self.n_out_of_memory = 0
        self.ops: set[str] = set()  # the names of all operators that ran
        self._sizes: dict[int, int] = {}  # the storage's address -> bytes

    def reset_peak(self) -> None:
        """Let the peak count from what is alive now."""
        self.peak_bytes = self.allocated_bytes

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator and count what it made; raises torch.OutOfMemoryError, keeping none of it."""
        kwargs = kwargs or {}
        self.ops.add(str(func))
        out = func(*args, **kwargs)
        made = {storage._cdata: storage for storage in _storages(out)}
        is_fresh = func is torch.ops.aten.lift_fresh.default  # torch.tensor(...): no operator has made its argument
        old = set() if is_fresh else {storage._cdata for storage in _storages((args, kwargs))}
        growth = {
            address: storage.nbytes() - self._sizes.get(address, 0)
            for address, storage in made.items()
            if address in self._sizes or address not in old
        }
        n_bytes = sum(growth.values())
        if n_bytes > 0 and self.budget_bytes is not None and self.allocated_bytes + n_bytes > self.budget_bytes:
            self.n_out_of_memory += 1
            del out, made  # the error's traceback holds this frame
            raise torch.OutOfMemoryError(
                f"out of memory: tried to allocate {format_bytes(n_bytes)};"
                f" {format_bytes(self.allocated_bytes)} of {format_bytes(self.budget_bytes)} are in use"
            )
        for address, more_bytes in growth.items():
            self._take(made[address], address, more_bytes)
        return out

    def _take(self, storage: torch.UntypedStorage, address: int, n_bytes: int) -> None:
        if address not in self._sizes:
            weakref.finalize(storage, self._free, address).atexit = False
            self._sizes[address] = 0
        self._sizes[address] += n_bytes
        self.allocated_bytes += n_bytes
        self.peak_bytes = max(self.peak_bytes, self.allocated_bytes)

    def _free(self, address: int) -> None:
        self.allocated_bytes -= self._sizes.pop(address)


def _storages(values: object) -> list[torch.UntypedStorage]:
    """The storages of all plain tensors in nested values (sparse ones and wrappers have none to speak of)."""
    return [
        value.untyped_storage()
        for value in tree_iter(values)
        if isinstance(value, torch.Tensor) and type(value) in _PLAIN and value.layout is torch.strided
    ]
