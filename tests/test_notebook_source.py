"""The two notebooks are one: the same code, outputs and figures; and the text agrees with the outputs."""

import ast
import contextlib
import csv
import importlib.util
import io
import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
# Figures of the text that no cell prints: Llama 3.2, 3 / 1.271, ln 20, TB/s of the A100, and two given in exercises.
GIVEN = {"3.2", "2.4", "3.0", "1.555", "0.21", "0.40"}
TERMS = (
    "浮点运算量",
    "算力",
    "乘加",
    "模型算力利用率",
    "吞吐量",
    "激活",
    "优化器状态",
    "重计算",
    "屋顶线",
    "算术强度",
    "预热",
    "峰值",
)


@pytest.fixture(scope="module")
def script():
    """scripts/make_notebooks.py as a module."""
    found = importlib.util.spec_from_file_location("make_notebooks", ROOT / "scripts" / "make_notebooks.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def notebooks(script):
    """Language -> the committed notebook."""
    return {language: nbformat.read(script.FOLDER / name, as_version=4) for language, name in script.LANGUAGES.items()}


def _code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _text(notebook):
    return {cell.id: cell.source for cell in notebook.cells if cell.cell_type == "markdown"}


def test_both_notebooks_have_the_same_code_and_outputs(notebooks):
    """Cell by cell."""
    english, chinese = map(_code, notebooks.values())
    assert english == chinese
    assert len(english) > 20


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_a_notebook_is_what_its_source_says(script, notebooks, language):
    """`make notebooks` writes them anew; `python scripts/make_notebooks.py --text` where only words have changed."""
    made = script.build(language)
    assert [cell.source for cell in made.cells] == [cell.source for cell in notebooks[language].cells]


def test_both_languages_say_the_same_figures(notebooks):
    """Every number of a section, as often."""
    english, chinese = map(_text, notebooks.values())
    for name, text in english.items():
        both = [Counter(re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", each)) for each in (text, chinese[name])]
        assert both[0] == both[1], name


def test_figures_in_the_text_are_those_that_cells_print(script, notebooks):
    """A decimal in the prose stands in an output, or in the data of the code."""
    code = _code(notebooks["en"])
    known = {
        number.rstrip("0")
        for cell in code
        for number in re.findall(r"\d+(?:,\d{3})*\.\d+", script.printed(cell) + cell.source)
    }
    for name, text in _text(notebooks["en"]).items():
        for number in re.findall(r"\d+(?:,\d{3})*\.\d+", text):
            plain = number.replace(",", "").rstrip("0")
            assert plain in {each.replace(",", "") for each in known} or number in GIVEN, f"{number} in {name}"


def test_outputs_show_no_folder_of_the_machine(script, notebooks):
    """Nor warnings, nor anything but text."""
    for notebook in notebooks.values():
        script.check_outputs(notebook)
        assert all(cell.execution_count is None for cell in _code(notebook))


def test_chinese_terms_are_the_agreed_ones(notebooks):
    """Each stands in the text at least once."""
    text = "".join(_text(notebooks["zh-CN"]).values())
    assert [term for term in TERMS if term not in text] == []


def test_the_original_notebooks_figures_are_those_it_printed(script):
    """FLOPs, batches and runs in the code against tests/data/notebook_results.csv."""
    names = {}
    for cell in ("job1_why", "job2_a100", "job3_old_new"):
        for statement in ast.parse(script.code_cells()[cell][0]).body:
            if isinstance(statement, ast.Assign) and statement.targets[0].id.startswith("PRINTED_"):
                names[statement.targets[0].id] = ast.literal_eval(statement.value)
    with (ROOT / "tests" / "data" / "notebook_results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    fixed = [row for row in rows if row["job"] == "fixed batch forward"]
    assert names["PRINTED_FLOPS"] == {row["model"]: float(row["printed_flops"]) for row in fixed}
    runs = [row for row in rows if row["job"] == "search forward and backward"]
    assert names["PRINTED_RUNS"] == tuple(
        (row["model"], int(row["batch"]), float(row["printed_tokens_per_s"]), float(row["printed_mfu"])) for row in runs
    )
    largest = {}
    for row in rows:
        key = (row["model"], row["job"])
        largest[key] = max(largest.get(key, 0), int(row["batch"]))
    jobs = ("search forward", "search forward and backward")
    assert names["PRINTED_BATCH"] == {row["model"]: tuple(largest[row["model"], job] for job in jobs) for row in fixed}


def test_the_checks_of_the_exercises_tell_right_from_wrong(script):
    """Each right answer, one that is 2 % off, and none; answers worked out by hand."""
    names = {}
    cells = script.code_cells()
    with contextlib.redirect_stdout(io.StringIO()):
        for name in ("setup", "job1", "peaks"):
            exec(cells[name][0], names)
        names["CARD"] = "NVIDIA A100-SXM4-40GB"
        exec(cells["check"][0], names)
        by_hand = {1: 4_194_304, 2: 0.1247, 3: 0.1750, 4: 0.42, 5: 1.1275, 6: 9.53, 7: 200.6}
        for number, answer in by_hand.items():
            assert names["check"](number, answer) is True
            assert names["check"](number, 1.02 * answer) is False
            assert names["check"](number, ...) is None
