"""`compare`: a change that another step, device or peak explains is said to be that; nothing is left out."""

import json
from pathlib import Path

import pytest

from flopwatch.cli import run
from flopwatch.compare.runs import compare_records
from flopwatch.errors import InputError
from flopwatch.record import load_record

BENCH = Path(__file__).parent / "data" / "records" / "bench.json"


def _bench():
    """The kept benchmark without its note that the machine was busy."""
    data = json.loads(BENCH.read_text(encoding="utf-8"))
    data["results"][0]["details"]["notes"] = []
    data["results"][0]["utilization"] = [_mfu("measured", 1e12), _mfu("user", 2e12)]
    return data


def _mfu(kind, peak_flops_per_s):
    return {
        "name": "mfu",
        "fraction": 1e11 / peak_flops_per_s,
        "convention": "matmul",
        "flops_per_s": 1e11,
        "peak_flops_per_s": peak_flops_per_s,
        "peak_kind": kind,
        "peak_source": "a test",
        "reason": None,
    }


def _warnings(before, after):
    return compare_records(load_record(json.dumps(before)), load_record(json.dumps(after)))[1]


def test_a_peak_that_was_measured_anew_is_told_beside_the_mfu():
    """The step is the same and MFU fell by a fifth: 1 TFLOP/s before, 1.25 after; 2 % more is what measuring varies."""
    after = _bench()
    after["results"][0]["utilization"] = [_mfu("measured", 1.25e12), _mfu("user", 2.04e12)]
    (said,) = _warnings(_bench(), after)
    assert said.endswith("mfu.matmul.measured is of a peak of 1.000 TFLOP/s before and 1.250 TFLOP/s after")


def test_a_figure_that_only_one_record_has_is_named():
    """An MFU of a peak that the other one did not know is no figure of both, and a gate on `mfu` does not see it."""
    after = _bench()
    del after["results"][0]["utilization"][1]
    assert [said.partition(": ")[2] for said in _warnings(_bench(), after)] == [
        "mfu.matmul.user is only in the first record"
    ]
    assert [said.partition(": ")[2] for said in _warnings(after, _bench())] == [
        "mfu.matmul.user is only in the second record"
    ]


def test_what_disturbed_a_timing_is_told_beside_its_change():
    """`beyond the noise` is of the samples: what other processes did to all of them is only in the notes."""
    after = _bench()
    after["results"][0]["details"]["notes"] = ["other processes kept 1.5 of 2 cores busy"]
    before = _bench()
    before["results"][0]["details"]["notes"] = ["steps got 23% faster while they were timed"]
    assert _warnings(before, after) == [
        "gpt-small train bench fp32, before: steps got 23% faster while they were timed",
        "gpt-small train bench fp32, after: other processes kept 1.5 of 2 cores busy",
    ]


@pytest.mark.parametrize("what", ["n_logical_cores", "quota_cores", "driver", "power_limit_w", "is_mig"])
def test_what_a_machine_may_use_is_part_of_it(what):
    """Half a core in a container, another driver or power limit: the same CPU or GPU by name, and another speed."""
    after = _bench()
    after["environment"][what] = 0.5
    assert any(
        said.startswith(f"{what} differs: ") and said.endswith("0.5 after") for said in _warnings(_bench(), after)
    )


@pytest.mark.parametrize("listed", [True, False], ids=["models", "spec"])
def test_another_network_of_the_same_name_is_told(listed):
    """A spec file that was edited keeps its name (`--set` changes it): what changed is the network."""
    before, after = _bench(), _bench()
    for data, n_layers in ((before, 12), (after, 24)):
        spec = {"name": "gpt-small", "n_layers": n_layers, "d_model": 768}
        data["request"] |= {"models": [{"name": "other", "n_layers": 7}, spec]} if listed else {"spec": spec}
    assert _warnings(before, after) == ["gpt-small: n_layers is 12 before and 24 after"]
    assert _warnings(before, before) == []


def test_code_that_changed_is_no_other_network():
    """A gate compares one state of the user's code with another: that is why it is asked."""
    before, after = _bench(), _bench()
    for data, fingerprint in ((before, "3b1f"), (after, "77e0")):
        data["request"]["models"] = [{"factory": "my:build", "changes": {}, "folder": ".", "fingerprint": fingerprint}]
    assert _warnings(before, after) == []


def test_a_batch_that_was_only_predicted_is_told_from_one_that_ran():
    """`fit --predict-only` beside a verified fit."""
    before = json.loads((BENCH.parent / "fit.json").read_text(encoding="utf-8"))
    after = json.loads(json.dumps(before))
    after["results"][0]["probes"] = []
    (said,) = _warnings(before, after)
    assert said.endswith(": source is probes before and prediction after")


def _count(*uncounted):
    data = json.loads((BENCH.parent / "count_trace.json").read_text(encoding="utf-8"))
    rows = [{"op": op, "calls": calls, "looks_like_matmul": like} for op, calls, like in uncounted]
    data["results"][0]["uncounted"] = rows
    return data


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [
        ([], [("mine.mm", 7, True)], 3),
        ([("mine.mm", 5, True)], [("mine.mm", 7, True)], 3),
        ([("mine.mm", 7, True)], [("mine.mm", 7, True)], 0),
        ([("mine.mm", 7, True)], [], 0),
        ([], [("mine.sort", 7, False)], 0),
    ],
)
def test_a_matmul_that_is_no_longer_counted_is_no_saving(tmp_path, capsys, before, after, code):
    """The same work behind an operator without a formula: FLOPs fall, and a gate on their growth cannot be judged."""
    for name, data in (("a.json", _count(*before)), ("b.json", _count(*after))):
        (tmp_path / name).write_text(json.dumps(data), encoding="utf-8")
    gate = ["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--fail-if"]
    assert run([*gate, "flops>0%"]) == code
    said = capsys.readouterr().err
    assert ("cannot be judged" in said) == (code == 3)
    assert ("after: not counted, and it looks like a matmul: mine.mm (7 calls)" in said) == (
        ("mine.mm", 7, True) in after
    )
    assert run([*gate, "params>0%"]) == 0


def test_a_warning_of_a_peak_is_all_chinese(tmp_path, capsys):
    """The general sentence took `of a peak of` for a value and left it in English."""
    after = _bench()
    after["results"][0]["utilization"] = [_mfu("measured", 1.25e12), _mfu("user", 2e12)]
    for name, data in (("a.json", _bench()), ("b.json", after)):
        (tmp_path / name).write_text(json.dumps(data), encoding="utf-8")
    assert run(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--lang", "zh"]) == 0
    said = capsys.readouterr().err
    assert "mfu.matmul.measured 所对照的峰值之前为 1.000 TFLOP/s，之后为 1.250 TFLOP/s" in said
    assert "of a peak" not in said


def _file(tmp_path, name, *arguments):
    path = str(tmp_path / name)
    assert run([*arguments, "--quiet", "-o", path]) == 0
    return path


@pytest.mark.parametrize(
    ("command", "more", "said"),
    [
        (["memory", "gpt-small", "--seq", "65"], ["--dtype", "fp32"], "dtype is bf16 before and fp32 after"),
        (["memory", "gpt-small", "--seq", "65"], ["--optimizer", "sgd"], "optimizer is adamw before and sgd after"),
        (["memory", "gpt-small", "--seq", "65"], ["--trace"], "source is closed-form before and trace after"),
        (["memory", "gpt-small", "--seq", "65"], ["--lora-rank", "3"], "lora_rank is None before and 3 after"),
        (
            ["count", "gpt-small", "--phase", "train"],
            ["--recompute", "full"],
            "recompute is none before and full after",
        ),
        (
            ["fit", "gpt-small", "--seq", "65", "--predict-only", "--limit", "4GiB"],
            ["--attention", "math"],
            "attention is auto before and math after",
        ),
        (
            ["mfu", "gpt-small", "--tokens-per-s", "999", "--dtype", "bf16", "--device", "A100 SXM4 40GB"],
            ["--device", "H100 SXM"],
            "mfu is of a peak of 312.0 TFLOP/s before and 989.4 TFLOP/s after",
        ),
    ],
)
def test_another_step_or_device_is_warned_of(tmp_path, capsys, command, more, said):
    """A change of what was asked for is no change of the model or the code."""
    last = more[0] if more[0] in command else None
    second = command[: command.index(last)] + more if last else command + more
    files = [_file(tmp_path, "a.json", *command), _file(tmp_path, "b.json", *second)]
    capsys.readouterr()
    assert run(["compare", *files, "--json"]) == 0
    assert any(warning.endswith(said) for warning in json.loads(capsys.readouterr().out)["warnings"])


def test_the_same_command_twice_has_nothing_to_warn_of(tmp_path, capsys):
    """What is the same is not told."""
    command = ["memory", "gpt-small", "--seq", "65", "--lora-rank", "3"]
    files = [_file(tmp_path, "a.json", *command), _file(tmp_path, "b.json", *command)]
    capsys.readouterr()
    assert run(["compare", *files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == []


def test_a_record_without_figures_is_refused_for_what_it_is(tmp_path):
    """Not as two that have nothing in common: they are one."""
    record = load_record(Path(_file(tmp_path, "d.json", "devices", "A100")).read_bytes())
    with pytest.raises(InputError, match="records of devices are not compared; those of count, memory"):
        compare_records(record, record)
