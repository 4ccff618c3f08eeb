"""Two languages of every report: one table, the same figures, and nothing that a record says left in English."""

import ast
import json
import re
import string
from pathlib import Path

import pytest
from rich.cells import cell_len

from flopwatch.record import load_record
from flopwatch.report.markdown import to_markdown
from flopwatch.report.messages import LANGUAGES, TABLE, Words
from flopwatch.report.messages.recorded import in_chinese
from flopwatch.report.messages.remarks import REMARKS
from flopwatch.report.messages.sentences import SENTENCES
from flopwatch.report.terminal import render

ROOT = Path(__file__).parents[1]
RECORDS = sorted((ROOT / "tests" / "data" / "records").glob("*.json"))
KEPT = sorted((ROOT / "docs" / "records").glob("*.json"))
PATHS = pytest.mark.parametrize("path", [*RECORDS, *KEPT], ids=lambda path: f"{path.parts[-3]}-{path.stem}")
# What is written the same in both languages: names, units, options.
NAMES = {"MFU", "HFU", "MBU", "FLOPs", "FLOP/s", "flopwatch", "GiB", "x", "--max", "--accumulate"}
# What is no English word: code, options, lists of commands, places.
_NO_WORDS = re.compile(r"`[^`]*`|--\S+|\([a-z]+(?:, [a-z-]+)+\)|\{[^}]*\}")
# Where the package puts a word of its own choice into a sentence, or one sentence into another.
_VARIABLE = re.compile(
    r"\{\w+\}[%)]?|\b(?:slower|faster|more|less|best|median)\b|(?<=peak-tflops) for |(?<=100 %: )"
    r"|(?<= is )a [a-z -]+(?:GPU, a share of a card| one)(?=, whose)|(?<=dense, )derived"
    r"|^attention (?=math|flash|written)|^(?:none: |not installed)| \((?=name the variant)|(?<=variant)\)"
)
# The established terms: an English message with the one has the other in its Chinese.
TERMS = {
    r"throughput": "吞吐量",
    r"warm-up|warming up": "预热",
    r"roofline": "屋顶线",
    r"recompute|recomputation|checkpointed": "重计算",
    r"activations?": "激活",
    r"optimizer": "优化器",
    r"gradients?": "梯度",
    r"parameters?": "参数",
    r"bandwidth": "带宽",
    r"datasheet": "数据手册",
    r"convention": "约定",
    r"operators?": "算子",
    r"multiply-add": "乘加",
    r"peak": "峰值",
    r"batch": "批量",
    r"tokens?": "词元|吞吐量",
    r"softmax": "softmax",
    r"closed form": "闭式公式",
    r"matmuls?": "矩阵乘法",
}


def _load(path):
    return load_record(path.read_text(encoding="utf-8"))


def _places(text):
    """The places of a message with how each is formatted."""
    return sorted((name, spec) for _, name, spec, _ in string.Formatter().parse(text) if name is not None)


def _pairs():
    yield from TABLE.values()
    yield from SENTENCES
    yield from REMARKS


def test_every_message_has_the_same_places_in_both_languages():
    """A figure that one language leaves out would be missing from half of the reports."""
    assert LANGUAGES == ("en", "zh")
    assert [english for english, chinese in _pairs() if _places(english) != _places(chinese)] == []


def test_no_message_is_left_in_english():
    """Only names, units and options may stand without a Chinese character beside them."""
    left = []
    for english, chinese in _pairs():
        plain = re.sub(r"\{[^}]*\}", " ", chinese)
        words = {word for word in re.findall(r"[A-Za-z/-]+", plain) if re.search("[A-Za-z]", word)}
        if not re.search("[一-鿿]", plain) and words - NAMES:
            left.append(english)
    assert left == ["English"] * left.count("English")


def test_chinese_text_has_chinese_marks():
    """Between Chinese characters stand full-width marks, and blanks only beside Latin letters and digits."""
    wrong = [c for _, c in _pairs() if re.search(r"[一-鿿][,;:!?(]|[,;:!?)][一-鿿]|[一-鿿] [一-鿿]", c)]
    assert wrong == []


@pytest.mark.parametrize("english", TERMS)
def test_a_term_is_one_word_in_chinese(english):
    """Peak is never 顶峰 in one place and 峰值 in another."""
    term = re.compile(rf"\b(?:{english})\b(?!-)", re.IGNORECASE)
    wrong = [(e, c) for e, c in _pairs() if term.search(_NO_WORDS.sub("", e))]
    assert [(e, c) for e, c in wrong if not re.search(TERMS[english], c)] == []


def test_each_sentence_of_a_record_is_one_that_the_package_writes():
    """A pair whose English was changed where it is written would never match again."""
    written = "\n".join(
        text
        for path in sorted((ROOT / "src" / "flopwatch").rglob("*"))
        if path.suffix in {".py", ".toml"} and "messages" not in path.parts
        for text in _texts(path)
    )
    shipped = "\n".join(path.read_text(encoding="utf-8") for path in RECORDS)  # what earlier versions wrote
    unknown = []
    for english, _ in (*SENTENCES, *REMARKS):
        pieces = [piece for piece in _VARIABLE.split(english) if len(piece) > 3]
        if not all(piece in written or piece in shipped for piece in pieces):
            unknown.append(english)
    assert unknown == []


def _texts(path):
    """The strings of a Python file, each f-string as one text without its places; a TOML file as it stands."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return [text]
    return [
        "".join(str(piece.value) if isinstance(piece, ast.Constant) else "\0" for piece in node.values)
        if isinstance(node, ast.JoinedStr)
        else node.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    ]


@PATHS
def test_both_languages_show_the_same_figures(path):
    """Number by number, in Markdown, which leaves no column out."""
    figures = [sorted(re.findall(r"\d+(?:[,.:]\d+)*", to_markdown(_load(path), lang=lang))) for lang in LANGUAGES]
    assert figures[0] == figures[1]


@PATHS
def test_nothing_that_a_record_says_is_left_in_english(path):
    """No three English words in a row: reasons, sources and notes are put into Chinese too."""
    record = _load(path)
    text = to_markdown(record, lang="zh")
    for name in (*_names(json.loads(path.read_text(encoding="utf-8"))), "median of"):
        text = text.replace(name, "")
    assert re.findall(r"\b[a-z]{2,} [a-z]{2,} [a-z]{2,}\b", text) == []


def _names(data):
    """What a record only names: devices, commands, instruction sets, the titles of datasheets."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from [value] if key in {"device", "command", "cpu"} and isinstance(value, str) else _names(value)
    elif isinstance(data, list):
        for value in data:
            yield from _names(value)
    elif isinstance(data, str) and "avx2" in data:
        yield data.rpartition(", ")[2]


@pytest.mark.parametrize("width", [41, 80, 200])
@PATHS
def test_chinese_fits_the_terminal(path, width):
    """A Chinese character is two columns wide: no line is wider than the terminal, and none begins with a mark."""
    lines = render(_load(path), width=width, lang="zh").splitlines()
    assert max(map(cell_len, lines)) <= width
    assert [line for line in lines if line.strip().startswith(("，", "。", "；", "：", "、", "）"))] == []


@pytest.mark.parametrize("width", [80, 200])
def test_columns_of_a_chinese_table_line_up(width):
    """The numbers of the last column end below one another, and below its head."""
    lines = render(_load(RECORDS[0].parent / "count.json"), width=width, lang="zh").splitlines()
    head = next(index for index, line in enumerate(lines) if line.startswith("模型"))
    table = [line for line in lines[head : head + 6] if not line.startswith("─")]
    assert len({cell_len(line) for line in table}) == 1
    assert table[0].endswith("每词元")


def test_a_chinese_number_and_its_unit_stay_on_one_line():
    """No line begins with a unit at any width, and 词元 is not broken."""
    record = _load(RECORDS[0].parent / "bench.json")
    for width in range(60, 110):
        for line in render(record, width=width, lang="zh").splitlines():
            assert not line.strip().startswith(("%", "GFLOP/s", "s ", "GiB", "词元/秒", "元"))


def test_a_long_chinese_line_is_filled():
    """Chinese has no blanks to break at: a line of a long sentence is as full as the words after it allow."""
    lines = render(_load(RECORDS[0].parent / "bench.json"), width=60, lang="zh").splitlines()
    (at,) = [index for index, line in enumerate(lines) if line.startswith("MFU")]
    assert cell_len(lines[at]) > 50


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("train", "训练"),
        ("given (40.00 GiB) less a headroom of 2.000 GiB", "给定的 40.00 GiB 减去余量 2.000 GiB"),
        (
            "'Nothing 5000' is not in the catalogue; give --peak-tflops, or measure with `flopwatch peak`",
            "目录里没有 'Nothing 5000'；请用 --peak-tflops 给出，或用 `flopwatch peak` 实测",
        ),
        ("gpt-xl train: batch 7 ran out of memory", "gpt-xl 训练：批量 7 内存不足"),
        ("gpt-xl train bench bf16 is only in the second record", "gpt-xl 训练 测速 bf16 只在第二份记录里"),
        ("train is the name of a model", "train is the name of a model"),
        ("my memory of train", "my memory of train"),
    ],
)
def test_what_a_record_says_is_put_into_chinese(english, chinese):
    """A value, a sentence, a reason within a reason; and what nobody knows stays as it is."""
    assert in_chinese(english) == chinese
    assert Words("zh").said(english) == chinese
    assert Words().said(english) == english
