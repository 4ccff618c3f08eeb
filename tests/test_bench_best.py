"""bench --batch best over pretended probes: the curve, what did not run, the plan, and what is not timed twice."""

import msgspec
import pytest

from bench_ground import CARD, SPEC, benches_on
from flopwatch.api import bench_series
from flopwatch.api.best_batch import best_batch
from flopwatch.compare.utilization import Ceiling
from flopwatch.errors import DoesNotFitError, InputError
from flopwatch.measure.journal import MemoryJournal
from flopwatch.measure.limit import given_limit
from flopwatch.probe.protocol import ProbeOutcome
from flopwatch.workload import Workload

WORK = Workload(phase="train", seq_len=61)


class Hardware:
    """Steps take as long as `step_s` says of their workload; it remembers every batch that it ran."""

    def __init__(self, step_s, *, fits=1 << 20):
        self.step_s, self.fits, self.ran, self.in_turn = step_s, fits, [], []

    def __call__(self, request, *, on_progress=None):
        if request.job == "time_in_turn":
            return self._in_turn([msgspec.convert(step["workload"], Workload) for step in request.arguments["steps"]])
        work = msgspec.convert(request.arguments["workload"], Workload)
        self.ran.append(work.batch)
        if work.batch > self.fits:
            return ProbeOutcome(outcome="oom", failure="cpu-allocator", error="x", wall_s=1.0)
        summary = {
            "samples_s": [self.step_s(work)] * 5,
            "n_steps": 1,
            "n_warmup": 3,
            "is_steady": True,
            "tensor_peak_bytes": 1000 * work.batch,
            "others_cores": None,
        }
        return ProbeOutcome(outcome="ok", result=summary, wall_s=1.0, peak_bytes=1000 * work.batch)

    def _in_turn(self, works):
        self.in_turn.append([work.batch for work in works])
        self.ran += self.in_turn[-1]
        rounds = [[self.step_s(work) for work in works] for _ in range(6)]
        result = {"rounds": rounds, "n_steps": [1] * len(works), "n_warmup": [3] * len(works), "others_cores": None}
        return ProbeOutcome(outcome="ok", result=result, wall_s=1.0)


@pytest.fixture
def benches(monkeypatch):
    """Makes a BenchSeries on pretended hardware; its measured peak is 1 TFLOP/s."""
    peak = Ceiling(kind="measured", flops_per_s={"fp32": 1e12, "bf16": 1e12}, sources={"fp32": "x", "bf16": "x"})
    monkeypatch.setattr(bench_series, "measured_ceiling", lambda *_args, **_options: peak)

    return benches_on


def a_step(work):
    """1 ms and 0.1 ms a sequence, and more than twice that beyond 24: tokens/s is highest at 24."""
    return (0.001 + 0.0001 * work.batch) * max(1.0, work.batch / 24) ** 2


def test_the_curve_holds_what_was_timed_and_the_result_is_its_best(benches):
    """Each point's tokens/s, interval, MFU and memory are those of its own run."""
    hardware = Hardware(a_step)
    found = best_batch(SPEC, WORK, benches(hardware), max_batch=96)
    search = found.batch_search
    assert [point.batch for point in search.curve] == sorted(set(hardware.ran))
    assert search.n_runs == len(hardware.ran) <= 96 / 3
    assert 0.98 * 24 * 61 / a_step(Workload(batch=24)) <= found.tokens_per_s
    four = next(point for point in search.curve if point.batch == 4)
    assert four.tokens_per_s == pytest.approx(4 * 61 / 0.0014)
    assert four.tokens_per_s_interval == pytest.approx([4 * 61 / 0.0014] * 2)
    assert four.peak_memory_bytes == 4000
    # training, 4 sequences: 3 x forward of 2 layers and the head, 2 FLOPs a weight, and 4 T^2 D of attention a layer
    forward = 2 * 4 * 61 * (2 * 12 * 44**2 + 44 * 701) + 4 * 2 * 4 * 61**2 * 44
    assert four.mfu == pytest.approx(3 * forward / 0.0014 / 1e12)
    assert four.mfu_peak_kind == "measured"


def test_a_batch_that_ran_out_of_memory_is_a_point_of_the_curve(benches):
    """It has no figures, and the best is one that ran."""
    found = best_batch(SPEC, WORK, benches(Hardware(lambda work: 0.01 + 1e-6 * work.batch, fits=11)))
    assert 10 <= found.batch <= 11
    last = found.batch_search.curve[-1]
    assert (last.outcome, last.tokens_per_s) == ("oom", None)
    with pytest.raises(DoesNotFitError, match="batch 1 of odd"):
        best_batch(SPEC, WORK, benches(Hardware(a_step, fits=0)))


def test_a_search_that_goes_on_times_nothing_twice(benches):
    """What the journal holds is not run again; the result is the same."""
    journal = MemoryJournal()
    first = best_batch(SPEC, WORK, benches(Hardware(a_step), journal), max_batch=96)
    idle = Hardware(a_step)
    assert best_batch(SPEC, WORK, benches(idle, journal), max_batch=96) == first
    assert idle.ran == []


def test_a_global_batch_comes_with_its_micro_batches(benches):
    """72 sequences: 3 x 24 at the peak's tokens/s; none larger than the global batch is ever timed."""
    hardware = Hardware(a_step)
    plan = best_batch(SPEC, WORK, benches(hardware), global_batch=72).batch_search.plan
    assert plan.micro_batch * plan.n_accumulate == plan.global_batch == 72
    assert plan.micro_batch in {18, 24}
    assert plan.tokens_per_s >= 0.97 * 24 * 61 / a_step(Workload(batch=24))
    assert max(hardware.ran) <= 72
    with pytest.raises(InputError, match="global batch of 0"):
        best_batch(SPEC, WORK, benches(hardware), global_batch=0)


def test_a_machine_that_became_slower_meanwhile_is_a_note(benches):
    """Half as fast from the fourth run on: the curve shows what was timed, and a note that it cannot be compared."""
    hardware = Hardware(lambda work: 0.01 * work.batch**0.5 * (2.0 if len(hardware.ran) >= 4 else 1.0))
    found = best_batch(SPEC, WORK, benches(hardware), max_batch=32)
    assert any("batch 8 was timed twice, -50.0 % tokens/s" in note for note in found.details["notes"])
    points = {point.batch: point.tokens_per_s for point in found.batch_search.curve}
    assert points[4] == pytest.approx(4 * 61 / 0.02)
    assert points[8] == pytest.approx(8 * 61 / (0.02 * 8**0.5))
    assert found.batch_search.n_runs == len(hardware.ran) == len(points) + 1 + len(hardware.in_turn[0])


def test_a_best_that_was_lucky_is_timed_again_and_all_its_samples_count(benches):
    """Batch 16 is 5 % fast the first time, 20 is not: of ten samples of 16 the median lies between its two times.

    So on a card, where another process's tensors would be in the way of timing them in turn.
    """
    seen = []

    def lucky(work):
        seen.append(work.batch)
        luck = 1.05 if work.batch == 16 and seen.count(16) == 1 else 1.0
        return work.batch**0.5 * max(1.0, (work.batch / 16) ** 0.5) / 1000 / luck

    on_card = benches(Hardware(lucky), machine=CARD)
    on_card.limit = given_limit(40 << 30)
    found = best_batch(SPEC, WORK, on_card, max_batch=32)
    points = {point.batch: point for point in found.batch_search.curve}
    assert seen.count(16) == 2
    one, other = 16 * 61 / 0.004 * 1.05, 16 * 61 / 0.004
    assert other < points[16].tokens_per_s < one
    assert points[16].tokens_per_s_interval == pytest.approx([other, one], rel=1e-6)
    assert found.batch_search.n_runs == len(seen) <= 32 / 3
    assert not any("timed twice" in note for note in found.details["notes"])


def test_the_finalists_are_timed_in_turn_and_the_note_says_how_they_compare(benches):
    """A machine that slows by 2.5 % a run: alone, 16 looks as good as 24, which is 5 % faster round by round."""
    rates = {1: 50.0, 4: 70.0, 8: 80.0, 16: 100.0, 24: 105.0}
    hardware = Hardware(lambda work: work.batch / rates.get(work.batch, 99.0) * 1.025 ** len(hardware.ran))
    found = best_batch(SPEC, WORK, benches(hardware), max_batch=24)
    (finalists,) = hardware.in_turn
    assert {16, 24} <= set(finalists)
    assert found.batch == 24
    said = "95.2% to 95.2% of the tokens/s of batch 24" if finalists[0] == 24 else "105.0% to 105.0% of the tokens/s"
    assert any(said in note and "timed in turn, 6 rounds" in note for note in found.details["notes"])
    assert len(found.step_s.samples) == 6
    assert found.batch_search.n_runs == len(hardware.ran) <= 8


def test_a_process_that_fails_beside_the_others_leaves_what_was_timed_alone(benches):
    """The search ends with the readings that it has, and says why they were not timed in turn."""

    class Crowded(Hardware):
        def _in_turn(self, works):
            return ProbeOutcome(outcome="oom", failure="x", error="no room", wall_s=1.0)

    found = best_batch(SPEC, WORK, benches(Crowded(a_step)), max_batch=24)
    assert found.batch_search.curve[-1].batch == 24
    assert found.batch == 24
    assert any("could not be timed in turn" in note and "no room" in note for note in found.details["notes"])
