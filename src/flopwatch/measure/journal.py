"""Journal: what was measured so far, by what was asked, so that nothing is measured twice."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final, Protocol

from flopwatch.record import METHOD
from flopwatch.store import ItemKind, Store

# What makes two machines, or two states of one, give different measurements. Free memory and the like are left out.
_IDENTITY: Final = (
    "flopwatch", "torch", "python", "cpu", "n_affinity_cores", "quota_cores", "n_threads", "device", "device_kind",
    "driver", "device_memory_bytes", "power_limit_w",
)  # fmt: skip


class Journal(Protocol):
    """Keeps each measurement the moment it exists."""

    def get(self, kind: ItemKind, key: str) -> dict[str, Any] | None:
        """What was kept under that kind and key, or None."""

    def put(self, kind: ItemKind, key: str, data: dict[str, Any]) -> None:
        """Keep a measurement before anything else is done."""


class MemoryJournal:
    """A journal for the life of this object."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], dict[str, Any]] = {}

    def get(self, kind: ItemKind, key: str) -> dict[str, Any] | None:
        """What was kept under that kind and key, or None."""
        return self._kept.get((kind, key))

    def put(self, kind: ItemKind, key: str, data: dict[str, Any]) -> None:
        """Keep a measurement."""
        self._kept[kind, key] = data


class StoreJournal:
    """The journal of one run in the results store; every `put` is on the disk when it returns."""

    def __init__(self, store: Store, run_id: int) -> None:
        self._store = store
        self._run_id = run_id

    def get(self, kind: ItemKind, key: str) -> dict[str, Any] | None:
        """What was kept under that kind and key, or None."""
        return self._store.get_item(kind, key, run_id=self._run_id)

    def put(self, kind: ItemKind, key: str, data: dict[str, Any]) -> None:
        """Keep a measurement; raises StoreError when it cannot be kept."""
        self._store.put_item(kind, key, data, run_id=self._run_id)


def content_key(asked: object) -> str:
    """A short name for plain data: equal data, equal name, in any process."""
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def resume_key(kind: str, request: dict[str, Any], environment: dict[str, Any]) -> str:
    """The name that a run and its continuation share: what was asked, on which machine, measured in which way."""
    identity = {name: environment.get(name) for name in _IDENTITY}
    asked = {name: value for name, value in request.items() if name != "command"}  # --resume itself is in there
    return content_key([kind, METHOD, asked, identity])
