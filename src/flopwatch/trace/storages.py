"""Which memory lives when: every storage that a traced step makes or frees, in order, with one running sum."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Final

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_PLAIN: Final = frozenset({torch.Tensor, torch.nn.Parameter, FakeTensor})
_COMPRESSED: Final = frozenset({torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc})


@dataclasses.dataclass(slots=True)
class StorageLife:
    """One storage: its bytes, the recorded operators (by index) at its birth and death, and what it is known to hold.

    `born` is -1 for a storage that was there before the trace; `died` is None for one that is there after it.
    `category` is `parameter`, `buffer`, `input`, `gradient`, `optimizer`, or None where nothing but the operator that
    made it says what it is.
    """

    n_bytes: int
    born: int
    died: int | None = None
    category: str | None = None


class _StorageRef(weakref.ref):  # type: ignore[type-arg]
    """A weak reference that knows which storage it stood for."""

    __slots__ = ("address", "index")

    index: int
    address: int


class StorageLog:
    """Births and deaths of storages while a trace runs.

    `events` holds i + 1 for the birth of `lives[i]` and -(i + 1) for its death; `live_bytes` is the sum now,
    `peak_bytes` the highest sum so far and `peak_event` the number of events up to it.
    """

    def __init__(self) -> None:
        self.lives: list[StorageLife] = []
        self.events: list[int] = []
        self.live_bytes = 0
        self.peak_bytes = 0
        self.peak_event = 0
        self.n_ops = 0
        self._refs: dict[int, _StorageRef] = {}

    def add(self, tensor: torch.Tensor, born: int, category: str | None = None) -> None:
        """Note the storage of a tensor, unless it is known already."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._refs:
            self._add(storage, storage.nbytes(), born, category)

    def add_new(self, tensor: torch.Tensor, n_bytes: int) -> None:
        """Note a tensor that the last operator has just made with a storage of its own, of `n_bytes`."""
        self._add(tensor.untyped_storage(), n_bytes, self.n_ops - 1, None)

    def _add(self, storage: torch.UntypedStorage, n_bytes: int, born: int, category: str | None) -> None:
        ref = _StorageRef(storage, self._freed)
        ref.address = address = storage._cdata
        ref.index = index = len(self.lives)
        self._refs[address] = ref
        self.lives.append(StorageLife(n_bytes, born, None, category))
        self.events.append(index + 1)
        live_bytes = self.live_bytes = self.live_bytes + n_bytes
        if live_bytes > self.peak_bytes:
            self.peak_bytes = live_bytes
            self.peak_event = len(self.events)

    def mark(self, tensor: torch.Tensor | None, category: str) -> None:
        """Say what a tensor's storage holds; one not seen before was there before the trace."""
        if tensor is None or not has_storage(tensor) or is_transformed(tensor):
            return
        ref = self._refs.get(tensor.untyped_storage()._cdata)
        if ref is None:
            self.add(tensor, born=-1, category=category)
        elif self.lives[ref.index].category is None:
            self.lives[ref.index].category = category

    def index_of(self, tensor: torch.Tensor) -> int | None:
        """The index in `lives` of a tensor's storage; None for one that was never seen."""
        ref = self._refs.get(tensor.untyped_storage()._cdata)
        return None if ref is None else ref.index

    def close(self) -> None:
        """End the log: what dies from now on is no part of the step."""
        self._refs.clear()

    def _freed(self, ref: _StorageRef) -> None:
        del self._refs[ref.address]
        life = self.lives[ref.index]
        life.died = self.n_ops - 1
        self.events.append(-(ref.index + 1))
        self.live_bytes -= life.n_bytes


def has_storage(tensor: torch.Tensor) -> bool:
    """Whether a tensor has one storage of its own to speak of (sparse ones and wrappers have none)."""
    is_plain = tensor.__class__ in _PLAIN
    return tensor.layout is torch.strided and (is_plain or not is_traceable_wrapper_subclass(tensor))


def is_transformed(tensor: torch.Tensor) -> bool:
    """Whether a transform of torch.func (vmap, grad, jvp) wraps this tensor; its operators never see such a one."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def stored_elements(tensor: torch.Tensor) -> int:
    """Elements that a tensor holds: all of a dense one, those that are stored of a sparse one (whole blocks in BSR)."""
    if tensor.layout is torch.sparse_coo:
        return tensor._values().numel()
    if tensor.layout in _COMPRESSED:
        return tensor.values().numel()
    return tensor.numel()
