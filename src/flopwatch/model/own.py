"""A model that a function of the user's makes: it has no closed form, only a process that runs it can tell of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from flopwatch.model.own_files import files_hash, own_files
from flopwatch.model.spec import ModelSpec


class OwnModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`package.module:callable`, and what it is called with besides the batch and the length of a sequence.

    `changes` are keyword arguments as text. `folder` is where the module is looked for first. `fingerprint` tells one
    state of its file, and of the user's other files that it imports, from another (None: it is an installed package's),
    so that a run is not continued with code that has changed.
    """

    factory: str
    changes: dict[str, str] = {}
    folder: str
    fingerprint: str | None = None

    @property
    def name(self) -> str:
        """The model as it is called in output: `my_models:mlp (width=16)`."""
        said = ", ".join(f"{name}={text}" for name, text in self.changes.items())
        return f"{self.factory} ({said})" if said else self.factory

    @property
    def module(self) -> str:
        """The Python module that has the callable."""
        return self.factory.partition(":")[0]

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain data."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields

    def check_seq_len(self, seq_len: int) -> None:
        """Nothing limits the length: the factory makes its inputs."""


Model = ModelSpec | OwnModel
"""What can be run here: a network that is known in numbers, or one that the user's code makes."""


def own_model(factory: str, changes: Mapping[str, str] | None = None) -> OwnModel:
    """The model behind `package.module:callable`, its module looked for in the current folder first; runs nothing."""
    folder = Path.cwd()
    files = own_files(factory.partition(":")[0], folder)
    return OwnModel(
        factory=factory,
        changes=dict(changes or {}),
        folder=str(folder),
        fingerprint=files_hash(files) if files else None,
    )


def probe_arguments(model: Model) -> dict[str, Any]:
    """What a probe is told of the model: `spec`, or `own`."""
    return {"spec" if isinstance(model, ModelSpec) else "own": model.to_dict()}


def import_from(model: Model) -> list[str]:
    """The folders that a probe imports from besides its own."""
    return [] if isinstance(model, ModelSpec) else [model.folder]


def imports(model: Model) -> list[str]:
    """The modules that a probe imports before its memory is counted."""
    return [] if isinstance(model, ModelSpec) else [model.module]
