"""Which files of the user's a factory is made of: a change in any of them makes it another model."""

import sys

import pytest

from flopwatch.model.own import own_model
from flopwatch.model.own_files import own_files

FILES = {
    "lab/__init__.py": "",
    "lab/nets/__init__.py": "from . import norms\n",
    "lab/nets/factory.py": "from torch import nn\nimport lab.layers.attention as scores\nfrom .blocks import Block\n",
    "lab/nets/blocks.py": "from ..layers import *\nfrom lab import sizes\n",
    "lab/nets/norms.py": "",
    "lab/layers/__init__.py": "",
    "lab/layers/attention.py": "def scores():\n    import helpers\n    return helpers\n",
    "lab/sizes.py": "import importlib\n\ntables = importlib.import_module('lab.tables')\n",
    "lab/tables.py": "import lab.nets.factory  # a circle\n",
    "lab/unused.py": "",
    "helpers.py": "import json\nimport torch\nfrom namespace.deep import leaf\n",
    "namespace/deep/leaf.py": "",
    "other.py": "",
}
OF_FACTORY = set(FILES) - {"lab/unused.py", "other.py"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with the user's package, two modules beside it, and nothing of it imported."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fingerprint(factory="lab.nets.factory:make"):
    return own_model(factory).fingerprint


def test_all_files_that_a_factory_imports_from_its_own_code_are_found(home):
    """Absolute and relative imports, inside functions too, by name, packages on the way; a circle ends."""
    found = {str(path.relative_to(home)) for path in own_files("lab.nets.factory", home).values()}
    assert found == OF_FACTORY
    assert not [name for name in sys.modules if name.split(".")[0] in {"lab", "helpers", "namespace"}]


@pytest.mark.parametrize("changed", sorted(FILES))
def test_a_change_in_a_file_that_is_imported_is_another_model_and_in_no_other(home, changed):
    """Whatever stands in it: a comment may change nothing, and nobody can tell."""
    before = fingerprint()
    with (home / changed).open("a") as file:
        file.write("# changed\n")
    assert (fingerprint() != before) == (changed in OF_FACTORY)


def test_a_file_that_is_added_where_an_import_looks_is_another_model(home):
    """`from ..layers import *` runs what a new lab/layers/__init__.py imports; a module may come before a package."""
    before = fingerprint()
    (home / "lab/layers/__init__.py").write_text("from lab import unused\n")
    assert fingerprint() != before


def test_files_are_told_by_what_is_in_them_not_by_where_they_lie(home, tmp_path_factory, monkeypatch):
    """A copy of the folder is the same code."""
    before = fingerprint()
    copy = tmp_path_factory.mktemp("copy")
    for name, text in FILES.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(text)
    monkeypatch.chdir(copy)
    assert fingerprint() == before


def test_code_on_the_path_elsewhere_is_the_users_too_and_an_installed_package_is_not(
    home, tmp_path_factory, monkeypatch
):
    """PYTHONPATH and editable installs lie outside of site-packages."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert fingerprint() is None
    monkeypatch.syspath_prepend(home)
    before = fingerprint()
    assert before is not None
    (home / "helpers.py").write_text("")
    assert fingerprint() != before
    assert fingerprint("torch.nn:Identity") is None
    assert fingerprint("json:loads") is None
    assert fingerprint("no_such_module:make") is None


def test_a_file_that_is_no_python_counts_as_it_is(home):
    """The run will say what is wrong with it."""
    (home / "helpers.py").write_text("def broken(:\n")
    before = fingerprint()
    (home / "helpers.py").write_bytes(b"x = 1\0")
    assert fingerprint() != before
