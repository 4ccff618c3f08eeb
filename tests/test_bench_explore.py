"""bench --explore: one thing changed at a time, what it buys, and n/a with its why."""

import json
import subprocess
import sys

import jsonschema
import msgspec
import pytest

from bench_ground import CARD, SPEC, SPEC_FILE, benches_on
from flopwatch.api import bench_series
from flopwatch.api.explore import explore
from flopwatch.compare.choices import Choice, choice_row, choices_for
from flopwatch.compare.utilization import Ceiling
from flopwatch.measure.bench import BenchRequest, StepMeasurement, is_step_done
from flopwatch.measure.journal import MemoryJournal
from flopwatch.measure.limit import given_limit
from flopwatch.measure.series import ProbeSeries
from flopwatch.measure.timing import timing_of
from flopwatch.model.own import OwnModel
from flopwatch.probe.protocol import ProbeOutcome
from flopwatch.probe.runner import ProbeRunner
from flopwatch.record import json_schema
from flopwatch.workload import Workload

WORK = Workload(phase="train", seq_len=61, batch=3)


def steps(*samples_s):
    timing = timing_of(list(samples_s), n_warmup=2)
    return StepMeasurement(
        timing=timing,
        tensor_peak_bytes=7,
        allocated_peak_bytes=7,
        n_threads=1,
        n_steps_per_sample=1,
        notes=[],
    )


def test_one_thing_is_changed_at_a_time():
    """Every choice differs from the base in what it is named after, and none is the base itself."""
    seen = {}
    for choice in choices_for(WORK, kind="cpu", compiled=False):
        now, then = choice.workload.to_dict(), WORK.to_dict()
        seen[choice.name, choice.value] = {name for name in now if now[name] != then[name]}
        assert seen[choice.name, choice.value] or choice.compiled
    assert seen == {
        ("attention", "math"): {"attention"},
        ("attention", "flash"): {"attention"},
        ("dtype", "bf16"): {"dtype"},
        ("dtype", "bf16 autocast"): {"dtype", "precision"},
        ("recompute", "full"): {"recompute"},
        ("optimizer", "adamw fused"): {"adamw"},
        ("batch", "1"): {"batch"},
        ("batch", "6"): {"batch"},
        ("compile", "yes"): set(),
    }


def test_what_has_no_meaning_is_no_choice():
    """Without gradients nothing is recomputed; attention written out has no kernel; batch 1 has no half."""
    found = choices_for(Workload(phase="decode", ops="elementary"), kind="cuda", compiled=True)
    names = [(choice.name, choice.value) for choice in found]
    assert names == [
        ("dtype", "bf16"),
        ("dtype", "fp16"),
        ("dtype", "bf16 autocast"),
        ("batch", "2"),
        ("compile", "no"),
    ]
    assert not found[-1].compiled


def test_a_change_and_its_interval_are_those_of_the_medians():
    """Twice the tokens in 1.5 times the time are a third more; the base moved from 1 to 1.1 s, and 3 % either way."""
    twice = Choice(name="batch", value="6", workload=msgspec.structs.replace(WORK, batch=6))
    base = [steps(1.0, 1.0, 1.0, 1.0, 1.0), steps(1.1, 1.1, 1.1, 1.1, 1.1)]
    row = choice_row(twice, steps(1.5, 1.5, 1.5, 1.5, 1.5), base=base, base_tokens=3 * 61)
    assert row.tokens_per_s == pytest.approx(6 * 61 / 1.5)
    assert row.change_fraction == pytest.approx(2 / 1.5 * 1.05 - 1)
    assert row.interval_fraction == pytest.approx([2 / 1.5 - 1.03, 2 * 1.1 / 1.5 - 0.97])
    assert row.pays is True


def test_a_change_within_what_the_machine_does_alone_is_no_change():
    """5 % faster than a base that moved by 10 %: nobody knows; 20 % slower than both is a cost."""
    base = [steps(1.0, 1.0, 1.0, 1.0, 1.0), steps(0.9, 0.9, 0.9, 0.9, 0.9)]
    same = Choice(name="attention", value="math", workload=WORK)
    assert choice_row(same, steps(0.95, 0.95, 0.95, 0.95, 0.95), base=base, base_tokens=3 * 61).pays is None
    assert choice_row(same, steps(1.2, 1.2, 1.2, 1.2, 1.2), base=base, base_tokens=3 * 61).pays is False


class Hardware:
    """bf16 takes half the time, torch.compile does not work, and `n_good` runs are all that it lives for."""

    def __init__(self, n_good=1000, slow_down=1.0, busy_dtype=None):
        self.n_good, self.n_ran, self.slow_down, self.busy_dtype = n_good, 0, slow_down, busy_dtype
        self.in_turn = []

    def __call__(self, request, *, on_progress=None):
        self.n_ran += 1
        if self.n_ran > self.n_good:
            raise KeyboardInterrupt
        if request.job == "time_in_turn":
            return self._in_turn(request)
        if request.arguments.get("compiled"):
            return ProbeOutcome(outcome="crashed", failure="InductorError", error="no C++ compiler", wall_s=1.0)
        work = msgspec.convert(request.arguments["workload"], Workload)
        step_s = self.step_s(work) * (self.slow_down if "repeat" in request.arguments else 1.0)
        summary = {"samples_s": [step_s] * 5, "n_steps": 1, "n_warmup": 3, "is_steady": True}
        others = 64.0 if work.dtype == self.busy_dtype else None
        summary |= {"tensor_peak_bytes": 9, "others_cores": others}
        return ProbeOutcome(outcome="ok", result=summary, wall_s=1.0, n_threads=64, peak_bytes=9)

    def step_s(self, work):
        return 0.01 * work.batch * (0.5 if work.dtype == "bf16" and work.precision == "pure" else 1.0)

    def _in_turn(self, request):
        works = [msgspec.convert(step["workload"], Workload) for step in request.arguments["steps"]]
        self.in_turn.append(works)
        others = 64.0 if self.busy_dtype in {work.dtype for work in works} else None
        result = {
            "rounds": [[self.step_s(work) for work in works]] * 7,
            "n_steps": [1] * len(works),
            "n_warmup": [3] * len(works),
        }
        result["others_cores"] = others
        return ProbeOutcome(outcome="ok", result=result, wall_s=1.0, n_threads=64)


@pytest.fixture
def benches(monkeypatch):
    peak = Ceiling(kind="measured", reason="pretended")
    monkeypatch.setattr(bench_series, "measured_ceiling", lambda *_args, **_options: peak)

    return benches_on


def test_each_choice_is_a_row_and_one_that_does_not_run_says_why(benches):
    """bf16 doubles tokens/s here; compile is n/a; the base again comes first and shows no change."""
    found = explore(SPEC, WORK, benches(Hardware()))
    rows = {(row.choice, row.value): row for row in found.choices}
    assert next(iter(rows)) == ("base", "again")
    assert rows["base", "again"].change_fraction == pytest.approx(0)
    assert rows["dtype", "bf16"].change_fraction == pytest.approx(1.0)
    assert rows["dtype", "bf16"].pays
    assert rows["batch", "6"].pays is None
    assert rows["compile", "yes"].tokens_per_s is None
    assert "no C++ compiler" in rows["compile", "yes"].reason


def test_of_own_code_nothing_is_changed_that_only_its_maker_can_change(benches):
    """Its attention, its checkpoints, and the batch of inputs that it brings."""

    def hardware(request, *, on_progress=None):
        if not request.job.endswith("own_work"):
            return Hardware()(request)
        facts = {"takes_batch": False, "takes_seq_len": False, "batch": 3, "seq_len": 1, "unit": "samples"}
        facts |= {"dtype": "fp32", "n_params": 7, "model_flops": {"fp32": 1000}, "hardware_flops": {"fp32": 1000}}
        return ProbeOutcome(outcome="ok", result=facts, wall_s=1.0)

    own = OwnModel(factory="my_code:fixed", folder=".")
    work = Workload(phase="train", seq_len=1, batch=3)
    rows = explore(own, work, benches(hardware)).choices
    assert {row.choice for row in rows} == {"base", "dtype", "optimizer", "compile"}


def test_a_base_that_moved_by_itself_is_a_note_and_nothing_that_pays(benches):
    """20 % slower the second time: the intervals of all choices hold that too, so bf16 is sure of less.

    What that leaves unsure is timed in turn with the base, and no longer knows of the machine.
    """
    found = explore(SPEC, WORK, benches(Hardware(slow_down=1.25)))
    rows = {(row.choice, row.value): row for row in found.choices}
    assert rows["base", "again"].change_fraction == pytest.approx(1 / 1.25 - 1)
    assert rows["base", "again"].pays is None
    assert rows["dtype", "bf16"].interval_fraction == pytest.approx([2.0 - 1.03, 2.0 * 1.25 - 0.97])
    assert any("the base itself changed by -20.0 %" in note for note in found.details["notes"])
    assert rows["dtype", "bf16"].n_rounds is None
    assert rows["recompute", "full"].n_rounds == 7
    assert rows["recompute", "full"].interval_fraction == pytest.approx([-0.03, 0.03])


def test_what_does_not_fit_beside_the_base_is_not_timed_in_turn(benches):
    """A step takes 9 bytes here: 18 hold two at a time, 17 none beside the base."""
    for limit_bytes, groups in ((18, [2] * 7), (27, [3, 3, 3, 2]), (17, [])):
        crowded = benches(hardware := Hardware())
        crowded.limit = given_limit(limit_bytes)
        explore(SPEC, WORK, crowded)
        assert [len(works) for works in hardware.in_turn] == groups


def test_a_choice_that_is_unsure_alone_is_sure_in_turn(benches):
    """Checkpointing costs 8 %, on a machine that becomes 25 % slower: alone nobody knows, in turn it costs."""

    class Checkpoints(Hardware):
        def step_s(self, work):
            return super().step_s(work) * (1.08 if work.recompute == "full" else 1.0)

    rows = {(row.choice, row.value): row for row in explore(SPEC, WORK, benches(Checkpoints(slow_down=1.25))).choices}
    row = rows["recompute", "full"]
    assert row.pays is False
    assert row.change_fraction == pytest.approx(1 / 1.08 - 1)
    assert row.interval_fraction == pytest.approx([1 / 1.08 - 1.03, 1 / 1.08 - 0.97])


def test_a_choice_that_takes_for_ever_is_given_up_and_a_compilation_is_not(benches):
    """A base of 0.03 s a step: a minute and fifty such steps, 61.5 s, are what others get of the 1800 s."""
    asked_s = []

    class Patient(Hardware):
        def __call__(self, request, *, on_progress=None):
            asked_s.append((request.job, request.arguments.get("compiled", False), request.timeout_s))
            if request.job == "bench_step" and request.arguments["workload"]["dtype"] == "bf16":
                return ProbeOutcome(outcome="timeout", failure="timeout", error="not within 61.5 s", wall_s=61.5)
            return super().__call__(request, on_progress=on_progress)

    rows = explore(SPEC, WORK, benches(Patient(), timeout_s=1800.0)).choices
    reasons = {(row.choice, row.value): row.reason for row in rows}
    assert "not within 61.5 s" in reasons["dtype", "bf16"]
    first, *others, again = [one for one in asked_s if one[0] == "bench_step"]
    assert first[2] == again[2] == 1800.0
    for _, compiled, timeout_s in others:
        assert timeout_s == (1800.0 if compiled else pytest.approx(61.5))
    asked_s.clear()
    explore(SPEC, WORK, benches(Patient(), timeout_s=300.0), timeout_s=300.0)  # as `--timeout 300` asks for
    assert {timeout_s for job, _, timeout_s in asked_s if job == "bench_step"} == {300.0}


@pytest.mark.parametrize(("first_s", "is_timed"), [(28.0, True), (30.0, False)])
def test_a_dtype_is_given_up_after_one_step_that_takes_too_long_for_seven(benches, first_s, is_timed):
    """A base of 0.03 s a step: 61.5 s hold seven of 8.8 s each, so the first has that and 20 s to begin: 28.8 s."""
    asked = []

    class Emulated(Hardware):
        def __call__(self, request, *, on_progress=None):
            asked.append((request.job, request.arguments.get("workload", {}).get("dtype")))
            if request.job == "fit_step" and first_s > request.timeout_s:
                return ProbeOutcome(outcome="timeout", failure="timeout", error="too long", wall_s=request.timeout_s)
            arguments = {name: value for name, value in request.arguments.items() if name != "compiled"}  # it works
            return super().__call__(msgspec.structs.replace(request, arguments=arguments), on_progress=on_progress)

    rows = {(row.choice, row.value): row for row in explore(SPEC, WORK, benches(Emulated(), timeout_s=1800.0)).choices}
    assert (("bench_step", "bf16") in asked) == is_timed
    assert ("fit_step", "fp32") not in asked
    for row in (rows["dtype", "bf16"], rows["dtype", "bf16 autocast"]):
        assert (row.tokens_per_s is not None) == is_timed
        said = "not timed: one step was not done in 28.8 s, 960 times what the base takes (--timeout gives it more)"
        assert row.reason == (None if is_timed else said)
    assert rows["batch", "6"].tokens_per_s is not None
    asked.clear()
    explore(SPEC, WORK, benches(Emulated(), timeout_s=80.0), timeout_s=80.0)  # 11.4 s each and 20 s
    assert ("bench_step", "bf16") in asked
    asked.clear()
    explore(SPEC, WORK, benches(Emulated(), timeout_s=1800.0), compiled=True)  # no step is compiled for nothing
    assert ("bench_step", "bf16") in asked


def test_the_one_step_ahead_is_the_step_that_is_timed():
    """A real probe of a tiny network answers it."""
    request = BenchRequest(spec=SPEC, workload=WORK, limit=given_limit(4 << 30))
    with ProbeRunner() as runner:
        series = ProbeSeries(run=runner.run)
        assert is_step_done(request, series, within_s=60.0)
        assert not is_step_done(request, series, within_s=0.01)


def test_on_a_card_nothing_is_timed_in_turn(benches):
    """Another process's tensors would be in the way."""
    on_card = benches(hardware := Hardware(slow_down=1.25), machine=CARD)
    on_card.limit = given_limit(40 << 30)
    explore(SPEC, WORK, on_card)
    assert hardware.in_turn == []


def test_nothing_is_concluded_of_a_choice_whose_cores_others_used(benches):
    """bf16 seems to double tokens/s, but the time is not that of the step: the row says so, and the table with it."""
    found = explore(SPEC, WORK, benches(Hardware(busy_dtype="bf16")))
    rows = {(row.choice, row.value): row for row in found.choices}
    assert rows["dtype", "bf16"].pays is None
    assert rows["dtype", "bf16"].disturbed.startswith("other processes kept 64.0 of")
    assert rows["optimizer", "adamw fused"].disturbed is None
    drawn = explore(SPEC, msgspec.structs.replace(WORK, dtype="bf16"), benches(Hardware(busy_dtype="bf16")))
    assert {row.pays for row in drawn.choices} == {None}  # the base itself was disturbed, both times


def test_an_exploration_that_was_killed_half_way_goes_on_where_it_was(benches):
    """Five runs were kept; the next time the others are run, and the rows are those of one go."""
    whole = Hardware()
    uninterrupted = explore(SPEC, WORK, benches(whole))
    # Attention twice, autocast, checkpoints, the fused optimizer, two batches buy nothing here: the base beside five.
    assert [len(works) for works in whole.in_turn] == [6, 3]
    journal = MemoryJournal()
    with pytest.raises(KeyboardInterrupt):
        explore(SPEC, WORK, benches(Hardware(n_good=5), journal))
    rest = Hardware()
    found = explore(SPEC, WORK, benches(rest, journal))
    assert rest.n_ran == whole.n_ran - 5
    assert found == uninterrupted


@pytest.mark.slow
def test_best_batch_and_exploration_on_real_steps(tmp_path, monkeypatch):
    """One command: the curve, the plan and the table in the text, all of it in a record that keeps to the schema."""
    (tmp_path / "odd.toml").write_text(SPEC_FILE)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "flopwatch", "bench", "odd.toml", "--batch", "best", "--global-batch", "2"]
    command += ["--explore", "--seq", "61", "--dtype", "fp32", "--store", "runs.sqlite", "-o", "run.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run.json").read_text())
    jsonschema.validate(record, json_schema())
    (found,) = record["results"]
    search = found["batch_search"]
    assert found["batch"] in {point["batch"] for point in search["curve"]}
    assert search["plan"]["micro_batch"] * search["plan"]["n_accumulate"] == 2
    assert {row["choice"] for row in found["choices"]} >= {
        "base",
        "attention",
        "dtype",
        "recompute",
        "batch",
        "compile",
    }
    for text in ("Batches that were timed", "A step of 2 sequences", "One thing changed at a time", "base again"):
        assert text in done.stdout
