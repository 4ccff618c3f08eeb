"""The layers of ARCHITECTURE.md: a part imports only parts of lower layers, and the core never loads torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "flopwatch"
LAYERS = {
    "errors": 0,
    "units": 0.5,
    "tally": 0,
    "fields": 0,
    "record": 0.5,
    "model": 1,
    "workload": 1,
    "store": 1,
    "cost": 2,
    "device": 2,
    "reference": 2,
    "trace": 3,
    "probe": 3,
    "measure": 4,
    "compare": 5,
    "report": 6,
    "api": 7,
    "cli": 8,
    "integrations": 8,
    "testing": 8,
    "__init__": 9,
    "__main__": 9,
}
NO_TORCH = {
    "errors",
    "fields",
    "units",
    "tally",
    "record",
    "model",
    "workload",
    "store",
    "cost",
    "measure",
    "compare",
    "report",
}


def _part(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def _imports(path: Path) -> list[str]:
    """Every absolute module name that a file imports, lazily or not; TYPE_CHECKING blocks count too."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_part_imports_only_parts_of_lower_layers(path):
    """Imports point down: never to the own layer of another part, never up."""
    part = _part(path)
    for name in _imports(path):
        pieces = name.split(".")
        if pieces[0] != "flopwatch" or len(pieces) < 2 or pieces[1] == part:
            continue
        if pieces[1] == "__version__":
            continue
        assert LAYERS[pieces[1]] < LAYERS[part], f"{part} (layer {LAYERS[part]}) imports {name}"


@pytest.mark.parametrize("path", [p for p in FILES if _part(p) in NO_TORCH], ids=lambda p: str(p.relative_to(SOURCE)))
def test_the_core_never_names_torch(path):
    """Closed forms, records and their drawing work on a machine without torch."""
    assert not [name for name in _imports(path) if name.split(".")[0] == "torch"]


@pytest.mark.parametrize("part", sorted({_part(p) for p in FILES}))
def test_every_part_has_a_layer(part):
    """A new part must say where it belongs."""
    assert part in LAYERS


def test_importing_flopwatch_loads_no_torch():
    """`import flopwatch` is cheap: no torch, no numpy, no rich."""
    code = "import sys, flopwatch; print([m for m in ('torch', 'numpy', 'rich', 'jinja2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
