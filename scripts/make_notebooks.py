"""Writes the notebooks in English and Chinese: one code, run once here, with the text of each language.

    python scripts/make_notebooks.py            # run the code and write both notebooks
    python scripts/make_notebooks.py --text     # take over changed text only, with the outputs that are there

The source is `notebooks/source`: `code.py` in cells, `en.md` and `zh-CN.md` with the text before each cell.
"""

from __future__ import annotations

import copy
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import nbformat
from nbclient import NotebookClient

FOLDER: Final = Path(__file__).parents[1] / "notebooks"
LANGUAGES: Final = {"en": "flops_analysis.ipynb", "zh-CN": "flops_analysis.zh-CN.ipynb"}
_CELL: Final = re.compile(r"^# %% (\w+)( exact)?\n", re.MULTILINE)
_TEXT: Final = re.compile(r"^<!-- (\w+) -->\n", re.MULTILINE)
_TIMEOUT_S: Final = 600


def code_cells() -> dict[str, tuple[str, bool]]:
    """Name -> (code, whether every machine prints the same), in order."""
    _head, *pieces = _CELL.split((FOLDER / "source" / "code.py").read_text(encoding="utf-8"))
    triples = zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True)
    return {name: (code.strip("\n"), exact is not None) for name, exact, code in triples}


def texts(language: str) -> dict[str, str]:
    """Name of a cell (or `end`) -> the text before it."""
    head, *pieces = _TEXT.split((FOLDER / "source" / f"{language}.md").read_text(encoding="utf-8"))
    assert not head.strip(), f"{language}.md begins with text that belongs to no cell"
    return {name: text.strip() for name, text in zip(pieces[::2], pieces[1::2], strict=True)}


def build(language: str) -> Any:
    """The notebook of a language without outputs."""
    cells, text = code_cells(), texts(language)
    assert list(text) == [*cells, "end"], f"{language}.md and code.py name different cells, or in another order"
    made = nbformat.v4.new_notebook()
    made.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for name, (code, is_exact) in cells.items():
        made.cells.append(nbformat.v4.new_markdown_cell(text[name], id=f"{name}-text"))
        made.cells.append(nbformat.v4.new_code_cell(code, id=name, metadata={"tags": ["exact"]} if is_exact else {}))
    made.cells.append(nbformat.v4.new_markdown_cell(text["end"], id="end-text"))
    return made


def execute(notebook: Any) -> Any:
    """The notebook run top to bottom in an empty folder; raises what a cell raises."""
    done = copy.deepcopy(notebook)
    with tempfile.TemporaryDirectory() as folder:
        before = dict(os.environ)
        os.environ |= {"IPYTHONDIR": folder, "FLOPWATCH_STORE": str(Path(folder) / "store.db")}
        try:
            client = NotebookClient(
                done,
                timeout=_TIMEOUT_S,
                kernel_name="python3",
                resources={"metadata": {"path": folder}},
                record_timing=False,
                coalesce_streams=True,
            )
            client.execute()
        finally:
            os.environ.clear()
            os.environ.update(before)
    for cell in done.cells:
        if cell.cell_type == "code":
            cell.execution_count = None  # the order is the notebook's; a number would say nothing
    return done


def printed(cell: Any) -> str:
    """What a code cell wrote on standard output."""
    return "".join(output.get("text", "") for output in cell.outputs if output.get("name") == "stdout")


def check_outputs(notebook: Any) -> None:
    """Refuse outputs that hold warnings, other forms than text, or folders of this machine."""
    private = {str(Path.home()), tempfile.gettempdir(), str(FOLDER.parent)} - {"/"}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = output.get("text", "")
            assert output.get("name") == "stdout", f"cell {cell.id} wrote more than text: {output}"
            assert not any(folder in text for folder in private), (
                f"cell {cell.id} shows a folder of this machine: {text}"
            )


def with_outputs(notebook: Any, outputs: dict[str, Any]) -> Any:
    """The notebook with the outputs of each cell by its name."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = copy.deepcopy(outputs[cell.id])
    return notebook


def main() -> None:
    """Run the code once, and write the notebook of each language."""
    done = _committed() if "--text" in sys.argv else execute(build("en"))
    check_outputs(done)
    outputs = {cell.id: cell.outputs for cell in done.cells if cell.cell_type == "code"}
    for language, name in LANGUAGES.items():
        made = with_outputs(build(language), outputs)
        nbformat.validate(made)
        nbformat.write(made, FOLDER / name)
        print(f"written: notebooks/{name}")


def _committed() -> Any:
    """The English notebook as it lies there; refused when its code is not the code of now."""
    there = nbformat.read(FOLDER / LANGUAGES["en"], as_version=4)
    code = {cell.id: cell.source for cell in there.cells if cell.cell_type == "code"}
    if code != {name: text for name, (text, _) in code_cells().items()}:
        raise SystemExit("the code has changed: its outputs are made by running it, without --text")
    return there


if __name__ == "__main__":
    main()
