"""flopwatch bench on a real tiny step: figures that follow from one another, and notes that say what is doubtful."""

import json
import statistics
import subprocess
import sys

import jsonschema
import pytest

from flopwatch.errors import DoesNotFitError, ProbeError
from flopwatch.measure.bench import BenchRequest, bench_step
from flopwatch.measure.limit import given_limit
from flopwatch.measure.series import ProbeSeries
from flopwatch.model.spec import ModelSpec
from flopwatch.probe.protocol import ProbeOutcome
from flopwatch.record import json_schema
from flopwatch.workload import Workload

SPEC = ModelSpec(name="odd", n_layers=2, d_model=44, n_heads=4, vocab_size=701, max_seq_len=80)


def flopwatch(*arguments):
    return subprocess.run([sys.executable, "-m", "flopwatch", *arguments], capture_output=True, text=True)


@pytest.fixture
def home(tmp_path, monkeypatch):
    fields = 'name = "odd"\nn_layers = 2\nd_model = 44\nn_heads = 4\nvocab_size = 701\nmax_seq_len = 80\n'
    (tmp_path / "odd.toml").write_text(fields)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("FLOPWATCH_STORE", str(tmp_path / "runs.sqlite"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_figures_of_a_benchmark_follow_from_its_samples(home):
    """Tokens/s, FLOP/s and MFU recomputed by hand from the median: 3 x 61 tokens, training 3 x forward."""
    done = flopwatch("bench", "odd.toml", "--batch", "3", "--seq", "61", "--dtype", "fp32", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    jsonschema.validate(record, json_schema())
    (found,) = record["results"]
    samples = found["step_s"]["samples"]
    assert len(samples) >= 5
    median = statistics.median(samples)
    assert found["step_s"]["median"] == pytest.approx(median)
    assert found["n_warmup"] >= 2
    assert found["tokens_per_s"] == pytest.approx(3 * 61 / median)
    # forward, by hand: 2 layers x (4 D^2 + 8 D^2) weights and the head, 2 FLOPs a token each, and 4 T^2 D of attention
    forward = 2 * 3 * 61 * (2 * 12 * 44**2 + 44 * 701) + 2 * 3 * 4 * 61**2 * 44
    assert found["model_flops_per_s"] == pytest.approx(3 * forward / median)
    kinds = {(row["name"], row["peak_kind"]): row for row in found["utilization"]}
    assert kinds["mfu", "datasheet"]["fraction"] is None
    assert "flopwatch peak" in kinds["mfu", "datasheet"]["reason"]
    measured = kinds["mfu", "measured"]
    assert measured["fraction"] == pytest.approx(found["model_flops_per_s"] / measured["peak_flops_per_s"])
    # weights, gradients, two moments of AdamW in fp32, at least
    n_params = 701 * 44 * 2 + 80 * 44 + 2 * (12 * 44**2 + 13 * 44) + 2 * 44
    assert 16 * n_params < found["peak_memory_bytes"] < 60 * n_params
    again = flopwatch("bench", "odd.toml", "--batch", "3", "--seq", "61", "--dtype", "fp32", "--phase", "forward")
    assert "tokens/s" in again.stdout
    assert "measured here" in again.stdout


BAD = {
    ("--batch", "0"): "batch=0",
    ("--batch", "many"): "'many' is not a count",
    ("--batch", "3", "--limit", "1GiB"): "--limit has no meaning with --batch 3",
    ("--batch", "best", "--limit", "1GiB"): "--limit has no meaning with --batch best",
    ("--global-batch", "8"): "--global-batch has no meaning with --batch 1",
    ("--batch", "best", "--global-batch", "0"): "--global-batch 0",
    ("--batch", "best", "--global-batch", "8", "--phase", "decode"): "--global-batch has no meaning in phase decode",
    ("--batch", "best", "--global-batch", "8", "--accumulate", "2"): "--global-batch and --accumulate contradict",
    ("--convention", "mine"): "no convention is called 'mine'",
    ("--seq", "81"): "80",
    ("--precision", "autocast", "--dtype", "fp64"): "precision=autocast does not cast to dtype=fp64",
    ("--precision", "autocast", "--dtype", "fp32"): "precision=autocast does not cast to dtype=fp32",
    ("--device", "cpu", "--dtype", "tf32"): "has no tf32",
}


@pytest.mark.parametrize(
    ("arguments", "said"), BAD.items(), ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_what_cannot_be_timed_is_refused_in_one_line(home, arguments, said):
    """Exit code 2 and nothing on stdout."""
    done = flopwatch("bench", "odd.toml", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert said in done.stderr


def measure(outcome):
    request = BenchRequest(spec=SPEC, workload=Workload(batch=5, seq_len=61), limit=given_limit(1 << 30))
    return bench_step(request, ProbeSeries(run=lambda _request, *, on_progress=None: outcome))


def rows(n, **more):
    return [{"warmup_s": 3.0, "n_steps": 1}, *({"sample_s": 2.0, "n_steps": 1, **more} for _ in range(n))]


def test_a_timing_that_ran_out_of_memory_does_not_fit():
    """Exit code 3, and where to look for the batch that does."""
    with pytest.raises(DoesNotFitError, match=r"batch 5 of odd \(forward, 61 tokens\) does not fit in 1.000 GiB"):
        measure(ProbeOutcome(outcome="oom", failure="cpu-allocator", error="x", wall_s=1.0))


def test_five_samples_before_the_time_was_up_are_a_timing_with_a_note():
    """What was measured is not thrown away; four would be too few."""
    found = measure(ProbeOutcome(outcome="timeout", failure="timeout", error="x", wall_s=9.0, partial=rows(5)))
    assert found.timing.median_s == 2.0
    assert found.tensor_peak_bytes is None
    assert any("the time was up after 5 samples" in note for note in found.notes)
    with pytest.raises(ProbeError, match="timeout"):
        measure(ProbeOutcome(outcome="timeout", failure="timeout", error="x", wall_s=9.0, partial=rows(4)))


def test_a_timing_that_was_cut_off_says_whether_its_warm_up_was_over():
    """Samples that go on getting faster after a warm-up that did: two steps before it, one in it."""
    falling = [{"warmup_s": 3.0, "n_steps": 1}, *({"sample_s": 2.0 * 0.9**n, "n_steps": 1} for n in range(6))]
    outcome = ProbeOutcome(outcome="timeout", failure="timeout", error="x", wall_s=9.0, partial=falling)
    found = measure(outcome)
    assert (found.timing.n_warmup, found.timing.is_steady) == (3, False)
    assert any("warm-up was cut off" in note for note in found.notes)
    assert measure(
        ProbeOutcome(outcome="timeout", failure="x", error="x", wall_s=9.0, partial=rows(6))
    ).timing.is_steady


def test_memory_that_was_not_counted_has_its_reason():
    """On a CPU counting takes a second run, which may not fit where the first did; a figure is never silently n/a."""
    summary = {"samples_s": [1.0] * 5, "n_steps": 1, "n_warmup": 3, "is_steady": True, "others_cores": None}
    known, unknown = (
        measure(ProbeOutcome(outcome="ok", result={**summary, "tensor_peak_bytes": n_bytes}, wall_s=1.0))
        for n_bytes in (7, None)
    )
    assert known.notes == []
    assert unknown.notes == [
        "peak memory is n/a: the step was timed, but running it again with every allocation counted did not fit"
    ]


def test_cores_that_others_kept_busy_are_a_note():
    """Two threads and 1.4 cores of others on a machine of few cores: the step had to share."""
    summary = {"samples_s": [1.0] * 5, "n_steps": 1, "n_warmup": 3, "is_steady": True, "tensor_peak_bytes": 7}
    busy = ProbeOutcome(outcome="ok", result={**summary, "others_cores": 64.0}, wall_s=1.0, n_threads=64)
    quiet = ProbeOutcome(outcome="ok", result={**summary, "others_cores": 0.05}, wall_s=1.0, n_threads=64)
    assert any("other processes kept 64.0" in note for note in measure(busy).notes)
    assert measure(quiet).notes == []


def test_two_clocks_that_disagree_are_a_note():
    """10 % apart is said, half a percent is a clock being set."""
    summary = {"samples_s": [1.0] * 5, "n_steps": 1, "n_warmup": 3, "is_steady": True, "tensor_peak_bytes": 7}
    skewed, good = (
        ProbeOutcome(outcome="ok", result={**summary, "others_cores": None, "clock_ratio": ratio}, wall_s=1.0)
        for ratio in (0.9, 1.005)
    )
    assert "the time of day moved by 0.90 s for each second" in measure(skewed).notes[0]
    assert measure(good).notes == []


def test_memory_that_is_taken_anew_each_step_is_a_note_with_a_way_out():
    """A quarter of the CPU time and 200,000 pages a step are said; few pages, little time or a GPU are not."""
    summary = {"samples_s": [1.0] * 5, "n_steps": 1, "n_warmup": 3, "is_steady": True, "tensor_peak_bytes": 7}
    much, few, little, unknown = (
        ProbeOutcome(outcome="ok", result={**summary, "others_cores": None, "fresh": fresh}, wall_s=1.0)
        for fresh in (
            {"pages": 200_000.0, "kernel_share": 0.25},
            {"pages": 10.0, "kernel_share": 0.25},
            {"pages": 200_000.0, "kernel_share": 0.02},
            {},
        )
    )
    assert measure(much).notes[0].startswith("25% of the CPU time is the system's: each step gives memory back and")
    assert "takes 200,000 pages anew" in measure(much).notes[0]
    assert measure(few).notes == measure(little).notes == measure(unknown).notes == []
