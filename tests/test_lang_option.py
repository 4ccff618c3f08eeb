"""`--lang`: every drawn form in Chinese, the record untouched, and English where the output has no Chinese."""

import io
import json
import sys

import pytest

from flopwatch.cli import run
from flopwatch.store import Store

COUNT = ["count", "gpt-small"]


def _stdout(monkeypatch, encoding):
    """Standard output in that encoding, and what it was given as text."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    return lambda: raw.getvalue().decode(encoding)


def test_the_terminal_speaks_chinese(capsys):
    """The same figures under Chinese names."""
    assert run([*COUNT, "--lang", "zh"]) == 0
    assert "参数量" in capsys.readouterr().out


@pytest.mark.parametrize("source", ["environment", "file"])
def test_the_language_can_be_set_once(source, capsys, monkeypatch, tmp_path):
    """FLOPWATCH_LANG, or lang in flopwatch.toml."""
    monkeypatch.chdir(tmp_path)
    if source == "environment":
        monkeypatch.setenv("FLOPWATCH_LANG", "zh")
    else:
        (tmp_path / "flopwatch.toml").write_text('lang = "zh"\n', encoding="utf-8")
    assert run([*COUNT, "--markdown"]) == 0
    assert "参数量" in capsys.readouterr().out


def test_an_unknown_language_is_refused(capsys):
    """Exit code 2, with the languages that there are."""
    assert run([*COUNT, "--lang", "fr"]) == 2
    said = capsys.readouterr().err
    assert "fr" in said
    assert "en" in said
    assert "zh" in said


def test_the_record_is_the_same_in_both_languages(capsys):
    """Keys and results of --json are English whatever is drawn."""
    results = []
    for lang in ("en", "zh"):
        assert run([*COUNT, "--json", "--lang", lang]) == 0
        results.append(json.loads(capsys.readouterr().out)["results"])
    assert results[0] == results[1]


def test_an_output_without_chinese_gets_english_and_is_told(monkeypatch, capsys):
    """ASCII cannot show it, and escapes could not be read."""
    text = _stdout(monkeypatch, "ascii")
    assert run([*COUNT, "--lang", "zh"]) == 0
    assert "Parameters" in text()
    assert "an output in ascii cannot show Chinese: drawn in English" in capsys.readouterr().err


def test_an_output_in_gbk_gets_chinese(monkeypatch, capsys):
    """The encoding of Chinese Windows terminals has every character of the tables."""
    text = _stdout(monkeypatch, "gbk")
    assert run([*COUNT, "--lang", "zh"]) == 0
    assert "参数量" in text()
    assert "\\u" not in text()
    assert "cannot show" not in capsys.readouterr().err


def test_the_list_of_runs_is_in_chinese_too(capsys, tmp_path):
    """Heads and states; the commands are what was typed."""
    path = tmp_path / "runs.sqlite"
    with Store(path) as store:
        number = store.start_run("fit", resume_key="k", request={"command": "flopwatch fit gpt-xl"}, environment={})
        store.end_run(number, "failed")
    assert run(["runs", "--store", str(path), "--lang", "zh"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("编号")
    assert "失败" in said
    assert "flopwatch fit gpt-xl" in said
