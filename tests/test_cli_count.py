"""`flopwatch count` as a user runs it: exact figures, clear errors, no torch."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from flopwatch.cli import run
from flopwatch.record import json_schema

GPT = ["gpt-small", "gpt-medium", "gpt-large", "gpt-xl"]
# Forward at batch 2 x 1024: 2BT(12Ld^2 + dV) + 4BT^2dL worked out by hand; the notebook's count leaves attention out.
FORWARD = [583_296_614_400, 1_653_902_147_584, 3_549_141_401_600, 7_013_407_129_600]
PARAMS = [163_037_184, 406_286_336, 838_359_040, 1_638_022_400]
GPT2_PARAMS = [124_439_808, 354_823_168, 774_030_080, 1_557_611_200]
GEOMETRY = [(12, 768), (24, 1024), (36, 1280), (48, 1600)]


def _json(capsys, *argv):
    assert run([*argv, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    record = json.loads(out)
    jsonschema.validate(record, json_schema())
    return record


def test_the_four_gpts_have_their_exact_flops_and_parameters(capsys):
    """Every multiply-add of every matmul, attention included."""
    record = _json(capsys, "count", *GPT, "--batch", "2", "--seq", "1024", "--phase", "forward")
    assert [result["flops"]["total"] for result in record["results"]] == FORWARD
    assert [result["params"]["total"] for result in record["results"]] == PARAMS


def test_the_notebook_convention_gives_what_the_notebook_prints(capsys):
    """5.1e11, 1.4e12, 3.2e12, 6.4e12: linear layers only, exactly 2BT(12Ld^2 + dV)."""
    record = _json(capsys, "count", *GPT, "--batch", "2", "--seq", "1024", "--convention", "notebook")
    totals = [result["flops"]["total"] for result in record["results"]]
    assert [f"{total:.1e}" for total in totals] == ["5.1e+11", "1.4e+12", "3.2e+12", "6.4e+12"]
    assert totals == [2 * 2 * 1024 * (12 * n * d * d + d * 50257) for n, d in GEOMETRY]


def test_gpt2_has_its_published_parameters(capsys):
    """Tied heads are counted once."""
    record = _json(capsys, "count", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
    assert [result["params"]["total"] for result in record["results"]] == GPT2_PARAMS


def test_training_is_three_times_forward(capsys):
    """Forward, and twice of it backward, for a model that trains all its weights."""
    (result,) = _json(capsys, "count", "gpt-small", "--batch", "2", "--phase", "train")["results"]
    assert result["flops"]["total"] == 3 * FORWARD[0]
    assert sum(result["flops"]["parts"].values()) == result["flops"]["total"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["count", "gpt-smal"], "no model is called 'gpt-smal'; did you mean gpt-small"),
        (["count", "gpt-small", "--seq", "2k"], "seq_len=2048 is longer than the context of gpt-small, 1024"),
        (["count", "gpt-small", "--batch", "0"], "batch=0 is not a positive whole number"),
        (["count", "gpt-small", "--batch", "-2"], "--batch"),
        (["count", "gpt-small", "--set", "n_heads=7"], "d_model=768 is not divisible by n_heads=7"),
        (["count", "gpt-small", "--set", "n_layers=0"], "n_layers=0 is not a positive whole number"),
        (["count", "gpt-small", "--set", "n_layers"], "--set 'n_layers' is not NAME=VALUE"),
        (["count", "gpt-small", "--convention", "matmull"], "no convention is called 'matmull'; did you mean matmul"),
        (["count", "gpt-small", "--phase", "eval"], "eval"),
        (["count", "gpt-small", "--recompute", "full"], "recompute=full has no meaning in phase forward"),
        (["count"], "model"),
        (["cuont", "gpt-small"], "cuont"),
        (["count", "gpt-small", "--json", "-o", "/proc/none/x.json"], "cannot write /proc/none/x.json"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(argv, says, capsys):
    """The value, the rule and the way out on stderr; no traceback; exit code 2 (1 where the disk refuses)."""
    code = run(argv)
    _, err = capsys.readouterr()
    assert code == (1 if "-o" in argv else 2)
    assert says.lower() in err.lower()
    assert err.count("\n") == 1


def test_the_record_is_printed_before_a_file_is_refused(capsys):
    """A full or read-only disk loses nothing that was asked for."""
    assert run(["count", "gpt-small", "--json", "-o", "/proc/none/x.json"]) == 1
    assert json.loads(capsys.readouterr().out)["kind"] == "count"


def test_the_record_is_written_to_a_file(tmp_path, capsys):
    """-o keeps the same document that --json prints."""
    file = tmp_path / "new folder" / "run.json"
    assert run(["count", "gpt-small", "--json", "-o", str(file)]) == 0
    assert file.read_text(encoding="utf-8") == capsys.readouterr().out


def test_options_come_from_files_and_the_environment_and_flags_win(tmp_path, monkeypatch, capsys):
    """pyproject.toml < flopwatch.toml < FLOPWATCH_* < flags."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.flopwatch]\nbatch = 3\nseq = 17\nphase = "train"\n')
    (tmp_path / "flopwatch.toml").write_text("batch = 5\n[count]\nseq = 19\n")
    monkeypatch.setenv("FLOPWATCH_BATCH", "7")
    (result,) = _json(capsys, "count", "gpt-small")["results"]
    assert (result["batch"], result["seq_len"], result["phase"]) == (7, 19, "train")
    (result,) = _json(capsys, "count", "gpt-small", "--batch", "11")["results"]
    assert result["batch"] == 11


def test_a_wrong_settings_file_is_named(tmp_path, monkeypatch, capsys):
    """A typing slip in a file is refused with the file's name, not ignored."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flopwatch.toml").write_text("[count]\nbacth = 5\n")
    assert run(["count", "gpt-small"]) == 2
    assert "flopwatch.toml: bacth is no option of count" in capsys.readouterr().err
    (tmp_path / "flopwatch.toml").write_text("[count\n")
    assert run(["count", "gpt-small"]) == 2
    assert "flopwatch.toml is not valid TOML" in capsys.readouterr().err
    (tmp_path / "flopwatch.toml").write_text('batch = "x"\n')
    assert run(["count", "gpt-small"]) == 2
    assert "flopwatch.toml: batch: 'x' is not a count" in capsys.readouterr().err
    (tmp_path / "flopwatch.toml").write_text("count = 3\n")
    assert run(["count", "gpt-small"]) == 2
    assert "flopwatch.toml: count is no table" in capsys.readouterr().err


def test_a_stream_that_the_shell_has_closed_spoils_nothing():
    """Without stderr an error is not printed among the data; without stdout there is one line, no traceback."""
    for redirect, code, out, err in (("2>&-", 2, "", ""), (">&-", 1, "", "flopwatch: standard output is closed")):
        command = f"{sys.executable} -m flopwatch count nope {redirect}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (code, out)
        assert done.stderr.startswith(err)
        assert done.stderr.count("\n") == (1 if err else 0)


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["--version"],
        ["count", "gpt-xl"],
        ["count", "--help"],
        ["mfu", "gpt-xl", "--tokens-per-s", "6779.92", "--device", "NVIDIA A100-SXM4-40GB"],
        ["devices", "NVIDIA L40S"],
    ],
    ids=" ".join,
)
def test_what_needs_no_torch_loads_none(argv):
    """A table or a closed form must not cost seconds."""
    code = (
        "import sys; from flopwatch.cli import run\n"
        f"code = run({argv!r})\n"
        "assert code == 0, code\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_python_dash_m_is_the_command():
    """`python -m flopwatch` and `flopwatch` are one."""
    done = subprocess.run([sys.executable, "-m", "flopwatch", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "0.1.0")


def test_a_device_is_written_into_and_never_replaced(tmp_path, capsys):
    """-o /dev/full says that the disk is full; the device is still a device afterwards."""
    full = Path("/dev/full")
    if not full.is_char_device():
        pytest.skip("this system has no /dev/full")
    assert run(["count", "gpt-small", "--json", "-o", str(full)]) == 1
    assert "cannot write /dev/full: No space left on device" in capsys.readouterr().err
    assert full.is_char_device()


def test_a_link_is_followed(tmp_path, capsys):
    """The file behind it is written; the link stays."""
    link, target = tmp_path / "link.json", tmp_path / "target.json"
    target.write_text("old")
    link.symlink_to(target)
    assert run(["count", "gpt-small", "--json", "-o", str(link)]) == 0
    assert link.is_symlink()
    assert target.read_text(encoding="utf-8") == capsys.readouterr().out
