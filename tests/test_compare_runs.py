"""`compare`: a change beyond the noise, one within it, what cannot be compared, and the gate for CI."""

import json
import random
from pathlib import Path

import pytest

from flopwatch.cli import run
from flopwatch.compare.condition import parse_condition
from flopwatch.compare.runs import RUN_TO_RUN_FRACTION, compare_records
from flopwatch.errors import InputError
from flopwatch.record import load_record

RECORDS = Path(__file__).parent / "data" / "records"


def _bench(*, factor=1.0, spread=0.01, n=11, seed=1):
    """The kept benchmark with `n` samples around `factor` times its median of 2.07 s."""
    data = json.loads((RECORDS / "bench.json").read_text(encoding="utf-8"))
    result = data["results"][0]
    result["details"]["notes"] = []
    draw = random.Random(seed)
    samples = sorted(2.07 * factor * (1 + draw.uniform(-spread, spread)) for _ in range(n))
    middle = samples[n // 2]
    result["step_s"] = {"median": middle, "p10": samples[0], "p90": samples[-1], "samples": samples}
    for name in ("tokens_per_s", "model_flops_per_s", "hardware_flops_per_s"):
        result[name] *= 2.07 / middle
    for row in result["utilization"]:
        row["fraction"] = row["fraction"] and row["fraction"] * 2.07 / middle
    return data


@pytest.fixture
def files(tmp_path):
    """Writes records to files and gives their names: `files(a, b)`."""

    def write(*records):
        names = []
        for number, data in enumerate(records):
            path = tmp_path / f"{number}.json"
            path.write_text(json.dumps(data), encoding="utf-8")
            names.append(str(path))
        return names

    return write


def _changes(before, after):
    results, warnings, _ = compare_records(load_record(json.dumps(before)), load_record(json.dumps(after)))
    return {row.figure: row for row in results[0].changes}, warnings


def test_a_step_that_takes_a_tenth_longer_is_beyond_the_noise():
    """1/1.1 of the tokens/s is a change of -9.1 %, and the interval holds it."""
    rows, warnings = _changes(_bench(), _bench(factor=1.1, seed=2))
    change = rows["tokens_per_s"]
    assert change.beyond_noise is True
    assert change.change_fraction == pytest.approx(1 / 1.1 - 1, abs=0.012)
    assert change.interval_fraction[0] < 1 / 1.1 - 1 < change.interval_fraction[1] < 0
    assert rows["step_s"].change_fraction == pytest.approx(0.1, abs=0.012)
    assert rows["mfu.matmul.measured"].change_fraction == pytest.approx(change.change_fraction)
    assert warnings == []


def test_two_runs_of_the_same_thing_are_within_the_noise():
    """Other samples of the same step: no change, for any seed."""
    for seed in range(2, 22):
        rows, _ = _changes(_bench(), _bench(seed=seed))
        assert rows["tokens_per_s"].beyond_noise is False


def test_the_interval_has_room_for_what_differs_from_run_to_run():
    """Without any spread in the samples it is what is added for two processes, on both sides."""
    rows, _ = _changes(_bench(spread=0.0), _bench(spread=0.0))
    assert rows["step_s"].interval_fraction == pytest.approx([-RUN_TO_RUN_FRACTION, RUN_TO_RUN_FRACTION])


def test_two_samples_leave_the_noise_unknown():
    """Nobody can say whether it is noise, and the row says why."""
    rows, _ = _changes(_bench(n=2), _bench(n=11))
    assert rows["tokens_per_s"].beyond_noise is None
    assert "fewer than 3 samples" in rows["tokens_per_s"].reason
    assert rows["peak_memory_bytes"].beyond_noise is None
    assert "one measurement" in rows["peak_memory_bytes"].reason


def test_counts_are_exact():
    """One FLOP more is a change."""
    before = json.loads((RECORDS / "count.json").read_text(encoding="utf-8"))
    after = json.loads(json.dumps(before))
    after["results"][0]["flops"]["total"] += 1
    results, *_ = compare_records(load_record(json.dumps(before)), load_record(json.dumps(after)))
    assert [[row.beyond_noise for row in result.changes if row.figure == "flops"] for result in results] == [
        [True],
        [False],
        [False],
        [False],
    ]


def test_two_methods_are_never_mixed():
    """A figure measured another way is another figure."""
    with pytest.raises(InputError, match="methods 1 and 2, which do not compare"):
        _changes(_bench(), _bench() | {"method": 2})


def test_another_machine_is_warned_of():
    """The change may be the machine's."""
    _, warnings = _changes(_bench(), _bench() | {"environment": {"cpu": "Other CPU", "torch": "2.13.0"}})
    assert any(warning.startswith("cpu differs: Example CPU @ 2.50GHz before, Other CPU after") for warning in warnings)
    assert not [warning for warning in warnings if warning.startswith("torch ")]


def test_another_optimizer_is_warned_of():
    """The change may be the optimizer's; a record from before that says nothing of it is not asked."""
    before, after = _bench(), _bench()
    before["results"][0]["details"]["optimizer"] = "adamw"
    after["results"][0]["details"]["optimizer"] = "adamw fused"
    _, warnings = _changes(before, after)
    assert [warning.partition(": ")[2] for warning in warnings] == ["optimizer is adamw before and adamw fused after"]
    assert _changes(_bench(), after)[1] == []


def test_another_batch_is_compared_and_warned_of():
    """`--batch max` may find another batch: tokens/s still compare."""
    after = _bench()
    after["results"][0]["batch"] = 3
    rows, warnings = _changes(_bench(), after)
    assert rows["tokens_per_s"].beyond_noise is False
    assert warnings == ["gpt-small train bench fp32: batch x seq is 1 x 256 before and 3 x 256 after"]


def test_what_is_only_in_one_record_is_named():
    """Nothing is left out silently."""
    before = json.loads((RECORDS / "count.json").read_text(encoding="utf-8"))
    after = json.loads(json.dumps(before)) | {"results": before["results"][1:]}
    _, warnings = _changes(before, after)
    assert warnings == ["gpt-small forward count matmul is only in the first record"]


def test_records_without_anything_in_common_are_refused():
    """A count and a benchmark."""
    with pytest.raises(InputError, match="nothing in common"):
        _changes(_bench(), json.loads((RECORDS / "count.json").read_text(encoding="utf-8")))


def test_every_kept_record_equals_itself():
    """Each kind that has figures compares with itself without a change beyond the noise."""
    for kind in ("count", "memory", "fit", "bench", "peak", "mfu", "report"):
        record = load_record((RECORDS / f"{kind}.json").read_bytes())
        results, warnings, lost = compare_records(record, record)
        assert lost == []
        assert not [text for text in warnings if "the machine was busy before the timing began" not in text]
        assert not [row for result in results for row in result.changes if row.beyond_noise]


@pytest.mark.parametrize(
    ("factor", "condition", "code"),
    [
        (1.1, "tokens_per_s<-5%", 3),
        (1.1, "mfu<-5%", 3),
        (1.1, "step_s > 5 %", 3),
        (1.1, "tokens_per_s<-20%", 0),
        (1.0, "tokens_per_s<-5%", 0),
        (1.02, "tokens_per_s<-1%", 0),
        (0.9, "tokens_per_s<-5%", 0),
    ],
)
def test_the_gate_fails_on_a_true_slow_down_only(files, capsys, factor, condition, code):
    """A tenth slower fails; noise, 2 % and a tenth faster do not."""
    names = files(_bench(), _bench(factor=factor, seed=3))
    assert run(["compare", *names, "--fail-if", condition]) == code
    captured = capsys.readouterr()
    assert "tokens_per_s" in captured.out
    assert ("is met by gpt-small train" in captured.err) == (code == 3)


def test_a_change_that_may_be_noise_passes_with_a_warning(files, capsys):
    """A tenth slower within samples that differ by 30 %: not a failure, and not silent."""
    names = files(_bench(spread=0.3, n=5), _bench(spread=0.3, n=5, factor=1.15, seed=1))
    assert run(["compare", *names, "--fail-if", "tokens_per_s<-0.5%"]) == 0
    assert "is not met only for the noise: gpt-small train tokens_per_s" in capsys.readouterr().err


def test_flops_that_grow_at_all_fail_the_gate(files, capsys):
    """`flops>0%` holds a model's work to the last FLOP."""
    before = json.loads((RECORDS / "count.json").read_text(encoding="utf-8"))
    after = json.loads(json.dumps(before))
    after["results"][3]["flops"]["total"] += 2
    assert run(["compare", *files(before, before), "--fail-if", "flops>0%"]) == 0
    assert run(["compare", *files(before, after), "--fail-if", "flops>0%"]) == 3
    assert "gpt-xl forward flops: 7,013,407,129,600 -> 7,013,407,129,602" in capsys.readouterr().err


def test_a_result_that_got_lost_fails_the_gate(files, capsys):
    """A job that broke off writes fewer results: a gate on a figure of theirs must not pass, one on another may."""
    before = json.loads((RECORDS / "count.json").read_text(encoding="utf-8"))
    after = json.loads(json.dumps(before)) | {"results": before["results"][1:]}
    names = files(before, after)
    assert run(["compare", *names, "--fail-if", "flops>0%"]) == 3
    said = "flops>0% cannot be judged: gpt-small forward count matmul is not in the second record"
    assert said in capsys.readouterr().err
    assert run(["compare", *reversed(names), "--fail-if", "flops>0%"]) == 0  # more than before is no loss
    assert run(["compare", *names, "--fail-if", "recompute_flops>0%"]) == 2  # nothing is recomputed: no such figure


def test_a_batch_that_no_longer_fits_fails_the_gate(files):
    """None after 2 is a fall of everything."""
    before = json.loads((RECORDS / "fit.json").read_text(encoding="utf-8"))
    after = json.loads(json.dumps(before))
    after["results"][0]["batch"] = None
    assert run(["compare", *files(before, after), "--fail-if", "batch<-50%"]) == 3


@pytest.mark.parametrize("text", ["tokens_per_s", "tokens_per_s<5", "<-5%", "a=b%", "x<-5%%", "tokens_per_s<--5%", ""])
def test_a_malformed_condition_is_bad_usage(files, capsys, text):
    """Exit 2, and how to write it."""
    with pytest.raises(InputError, match="is not a condition; write it like 'tokens_per_s<-5%'"):
        parse_condition(text)
    assert run(["compare", *files(_bench(), _bench()), f"--fail-if={text}"]) == 2
    assert capsys.readouterr().out == ""


def test_a_condition_on_a_figure_that_is_not_there_is_bad_usage(files, capsys):
    """A slip in a name must not pass for ever: the nearest figures are named."""
    assert run(["compare", *files(_bench(), _bench()), "--fail-if", "token_per_s<-5%"]) == 2
    assert "no figure 'token_per_s' is in both records; did you mean tokens_per_s" in capsys.readouterr().err


@pytest.mark.parametrize(("where", "value"), [("samples", [2.07, 0.0, 2.07]), ("samples", [-2.07]), ("median", 0)])
def test_a_step_that_took_no_time_is_no_record(files, capsys, where, value):
    """A file that was changed by hand: what no clock can have said is bad input, and no error of a measurement."""
    wrong = _bench()
    wrong["results"][0]["step_s"][where] = value
    assert run(["compare", *files(_bench(), wrong)]) == 2
    assert "not what flopwatch writes" in capsys.readouterr().err
