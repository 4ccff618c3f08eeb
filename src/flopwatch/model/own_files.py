"""The user's own files that a module of theirs imports, found without running any of it, and one hash of them all."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import site
import sysconfig
from collections.abc import Iterator
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from pathlib import Path
from typing import Final

_IMPORTERS: Final = frozenset({"import_module", "__import__"})
_LOADERS: Final = ((ExtensionFileLoader, EXTENSION_SUFFIXES), (SourceFileLoader, SOURCE_SUFFIXES))


def own_files(module: str, folder: Path) -> dict[str, Path]:
    """Module name -> file of `module` and of all that it imports, directly or not, from the user's own code.

    The user's own is what lies in `folder` (looked at first), or beside or below the module's top package; never the
    standard library or what is installed as a package. Nothing is run: imports are read from the text, those with a
    computed name are not seen. Empty for a module that is nobody's own, or not there.
    """
    roots = [str(folder)]
    top = module.partition(".")[0]
    if _find(top, roots) is None:
        elsewhere = _elsewhere(top)
        if elsewhere is None:
            return {}
        roots.append(str(elsewhere))
    found: dict[str, Path] = {}
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        spec = _find(name, roots)
        if spec is None:
            continue
        parent = name.rpartition(".")[0]
        waiting += [parent] if parent else []  # importing a.b runs a/__init__.py first
        file = _file_of(spec)
        if file is not None:
            found[name] = file
            package = name if spec.submodule_search_locations is not None else parent
            waiting += _imported(file, package)
    return found


def files_hash(files: dict[str, Path]) -> str:
    """A short name for the content of the files under these module names."""
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(f"{name}\n{hashlib.sha256(files[name].read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]


def _elsewhere(top: str) -> Path | None:
    """The folder that holds the user's top module where Python finds it (PYTHONPATH, an editable install)."""
    try:
        spec = importlib.util.find_spec(top)
    except (ValueError, ImportError):  # a module made by hand has no spec
        return None
    file = None if spec is None else _file_of(spec)
    if spec is None or file is None:
        return None
    folder = file.parent.parent if spec.submodule_search_locations is not None else file.parent
    paths = sysconfig.get_paths()
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    installed = [*site.getsitepackages(), site.getusersitepackages(), *(paths[kind] for kind in kinds)]
    return None if any(folder.is_relative_to(Path(path).resolve()) for path in installed) else folder


def _find(name: str, roots: list[str]) -> ModuleSpec | None:
    """The module of that name below the roots; None for one that is not there."""
    places = roots
    spec: ModuleSpec | None = None
    for piece in name.split("."):
        found = [spec for place in places if (spec := FileFinder(place, *_LOADERS).find_spec(piece)) is not None]
        spec = next((one for one in found if one.has_location), found[0] if found else None)
        if spec is None:
            return None
        same = [spec] if spec.has_location else found  # folders without __init__.py are one package together
        places = [place for one in same for place in one.submodule_search_locations or ()]
    return spec


def _file_of(spec: ModuleSpec) -> Path | None:
    """The file that a module is in; None for a folder without __init__.py and for what is built in."""
    return Path(spec.origin).resolve() if spec.has_location and spec.origin else None


def _imported(file: Path, package: str) -> list[str]:
    """Every name that may be a module among the imports of a file of `package`; none for one that is no Python."""
    if file.suffix != ".py":
        return []
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError):  # whoever runs it will be told
        return []
    return [name for node in ast.walk(tree) for name in _named(node, package)]


def _named(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _absolute(node.module or "", node.level, package)
        if base:
            yield base
        yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names if alias.name != "*")
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
        if called in _IMPORTERS and isinstance(node.args[0].value, str):
            name = node.args[0].value
            n_dots = len(name) - len(name.lstrip("."))
            yield _absolute(name[n_dots:], n_dots, package)


def _absolute(name: str, level: int, package: str) -> str:
    """The module that `level` dots and `name` mean within a package."""
    if not level:
        return name
    pieces = package.split(".")
    base = ".".join(pieces[: max(0, len(pieces) - level + 1)])
    return f"{base}.{name}" if base and name else base or name
