"""Options from files and the environment: `[tool.flopwatch]` in pyproject.toml, flopwatch.toml, FLOPWATCH_*."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import cyclopts
from cyclopts.config import Dict, Env

from flopwatch.errors import InputError


def settings(folder: Path | None = None) -> list[Any]:
    """The sources of options below the flags, strongest first: environment, flopwatch.toml, pyproject.toml."""
    here = folder or Path.cwd()
    sources: list[Any] = [Env("FLOPWATCH_", command=False)]
    for table, path in ((_own_file(here)), (_pyproject(here))):
        if table:
            sources.append(_Table(table, str(path)))
    return sources


class _Table:
    """One table of options: top-level keys apply to every command that knows them, `[count]` to `count` alone."""

    def __init__(self, table: dict[str, Any], source: str) -> None:
        self._table = table
        self._source = source

    def __call__(self, app: cyclopts.App, commands: tuple[str, ...], arguments: Any) -> None:
        known = {name.lstrip("-") for argument in arguments for name in argument.names}
        own = _table_of(self._table, commands[0], Path(self._source)) if commands else {}
        general = {key: value for key, value in self._table.items() if not isinstance(value, dict)}
        for key in own:
            if key.replace("_", "-") not in known:
                raise InputError(f"{self._source}: {key} is no option of {commands[0]}", hint="see its --help")
        merged = {k.replace("_", "-"): v for k, v in {**general, **own}.items() if k.replace("_", "-") in known}
        Dict(merged, source=self._source, use_commands_as_keys=False)(app, commands, arguments)


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}", hint="correct it or move it away") from error


def _own_file(folder: Path) -> tuple[dict[str, Any], Path]:
    path = folder / "flopwatch.toml"
    return (_load(path) if path.is_file() else {}), path


def _pyproject(folder: Path) -> tuple[dict[str, Any], Path]:
    """The nearest pyproject.toml that has a [tool.flopwatch]."""
    for parent in (folder, *folder.parents):
        path = parent / "pyproject.toml"
        if path.is_file():
            return _table_of(_table_of(_load(path), "tool", path), "flopwatch", path), path
    return {}, folder


def _table_of(table: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """The table of that name in another, empty where there is none; raises InputError for what is no table."""
    found = table.get(name, {})
    if not isinstance(found, dict):
        raise InputError(
            f"{path}: {name} is no table",
            hint="options stand in [tool.flopwatch], those of `count` in [tool.flopwatch.count]",
        )
    return found
