"""fit over fake probes: what the record says of each way a search can end, and that nothing is asked twice."""

import msgspec
import pytest

from flopwatch.errors import DoesNotFitError, InputError, MissingError, ProbeError, SpecError
from flopwatch.measure.batch_search import Grid
from flopwatch.measure.fit import FitRequest, does_not_fit, fit_batch, predict_batch
from flopwatch.measure.journal import MemoryJournal, StoreJournal, resume_key
from flopwatch.measure.limit import given_limit
from flopwatch.measure.series import ProbeSeries
from flopwatch.model.spec import ModelSpec
from flopwatch.probe.protocol import ProbeOutcome
from flopwatch.record import NextBatch
from flopwatch.store import Store
from flopwatch.workload import Workload

MIB = 1 << 20
SPEC = ModelSpec(name="odd", n_layers=3, d_model=56, n_heads=7, vocab_size=301, max_seq_len=96)


class FakeHardware:
    """Runs a step when `fixed + each * batch` MiB are within the limit; remembers what it was asked."""

    def __init__(self, *, fixed=100, each=7, otherwise="oom", failure="cpu-allocator", die_at=None):
        self.fixed, self.each, self.otherwise, self.failure = fixed, each, otherwise, failure
        self.asked = []
        self.die_at = die_at

    def __call__(self, request, *, on_progress=None):
        batch = request.arguments["workload"]["batch"]
        if self.die_at is not None and len(self.asked) == self.die_at:
            raise KeyboardInterrupt
        self.asked.append(batch)
        peak = (self.fixed + self.each * batch) * MIB
        if peak <= request.limit_bytes:
            return ProbeOutcome(outcome="ok", result={}, peak_bytes=peak, wall_s=1.0, n_threads=2)
        return ProbeOutcome(outcome=self.otherwise, failure=self.failure, error="what it said", wall_s=0.5)


def request(limit_mib=500, **fields):
    workload = Workload(seq_len=48, phase="train")
    return FitRequest(spec=SPEC, workload=workload, limit=given_limit(limit_mib * MIB), **fields)


def fit(hardware, *, predict=None, journal=None, **fields):
    series = ProbeSeries(run=hardware, journal=journal)
    return fit_batch(
        request(**fields), series, predict=predict or (lambda b: (hardware.fixed + hardware.each * b) * MIB)
    )


def test_the_record_shows_the_batch_the_proof_and_every_probe():
    """(500 - 100) / 7 = 57.1: 57 ran with 499 MiB, 58 did not."""
    hardware = FakeHardware()
    result = fit(hardware)
    assert (result.batch, result.verified) == (57, True)
    assert result.measured_peak_bytes == result.predicted_peak_bytes == 499 * MIB
    assert result.next == NextBatch(batch=58, outcome="oom", how="ran")
    assert [probe.batch for probe in result.probes] == hardware.asked
    assert len(hardware.asked) <= 3
    assert {(probe.batch, probe.outcome, probe.detail) for probe in result.probes} >= {
        (57, "ok", None),
        (58, "oom", "cpu-allocator"),
    }
    assert result.details["prediction_error_fraction"] == 0


def test_a_capped_search_says_that_nothing_larger_was_tried():
    """--max 16 ran: the largest batch may be larger, and the record says so."""
    result = fit(FakeHardware(), grid=Grid(max_batch=16))
    assert (result.batch, result.verified) == (16, True)
    assert result.next == NextBatch(batch=17, outcome="not tested", how="not tested")
    assert result.details["capped"] is True


def test_when_nothing_fits_the_error_says_what_the_smallest_needs():
    """Exit code 3, the need and the limit in one line."""
    result = fit(FakeHardware(fixed=700))
    assert (result.batch, result.verified, result.measured_peak_bytes) == (None, False, None)
    assert result.next == NextBatch(batch=1, outcome="oom", how="ran")
    error = does_not_fit(result)
    assert isinstance(error, DoesNotFitError)
    assert error.exit_code == 3
    assert str(error) == (
        "batch 1 of odd (train, 48 tokens, fp32) needs about 707.0 MiB (predicted); 500.0 MiB are allowed (given);"
        " raise --limit or shorten --seq"
    )


@pytest.mark.parametrize("outcome", ["crashed", "killed"])
def test_a_crash_above_a_batch_that_ran_bounds_it_and_keeps_its_name(outcome):
    """A step that dies where a smaller one ran did not fit, and the record shows how it died."""
    result = fit(FakeHardware(otherwise=outcome, failure="SystemError"))
    assert result.batch == 57
    assert result.next == NextBatch(batch=58, outcome=outcome, how="ran")
    assert result.probes[-1].detail == "SystemError: what it said"


@pytest.mark.parametrize("outcome", ["crashed", "killed", "timeout"])
def test_a_failure_far_from_the_limit_is_said_to_be_none_of_memory(outcome):
    """A step whose code breaks at batch 21, with half of the limit unused: 20 is no answer about memory."""
    hardware = FakeHardware(otherwise=outcome, failure="IndexError")
    limit_mib = hardware.fixed + 20 * hardware.each
    run = ProbeSeries(run=lambda asked, **_: hardware(msgspec.structs.replace(asked, limit_bytes=limit_mib * MIB)))
    result = fit_batch(request(), run, predict=lambda batch: (100 + 7 * batch) * MIB)
    assert result.batch == 20
    assert result.details["notes"] == [
        f"batch 21 ended as {outcome} where batch 20 took 48.0 % of the limit: it is not memory that stops it"
    ]
    assert "notes" not in fit(FakeHardware(otherwise=outcome)).details


@pytest.mark.parametrize(("outcome", "hint"), [("crashed", "bench"), ("timeout", "--timeout")])
def test_a_step_that_never_runs_is_an_error_and_not_a_lack_of_memory(outcome, hint):
    """The smallest batch fails although it should fit by far: a bug must not read as "does not fit"."""
    hardware = FakeHardware(fixed=10_000, otherwise=outcome, failure="IndexError")
    with pytest.raises(ProbeError, match=f"batch 1 of odd did not run: {outcome}") as caught:
        fit(hardware, predict=lambda batch: batch * MIB)
    assert hint in caught.value.hint


def test_an_unclear_failure_where_the_prediction_is_too_large_is_a_lack_of_memory():
    """SystemError from an interpreter that ran out of memory half-way."""
    result = fit(FakeHardware(fixed=700, otherwise="crashed", failure="SystemError"))
    assert result.batch is None


@pytest.mark.parametrize("n_before", [1, 2])
def test_a_series_that_was_cut_off_asks_no_probe_again_and_ends_the_same(tmp_path, n_before):
    """Ctrl-C after one or two probes: the store has them, the continued search asks only for the rest."""
    whole = fit(FakeHardware(), predict=lambda b: (90 + 7 * b) * MIB)
    with Store(tmp_path / "s.sqlite") as store:
        run_id = store.start_run("fit", request={}, environment={}, resume_key="k")
        first = FakeHardware(die_at=n_before)
        with pytest.raises(KeyboardInterrupt):
            fit(first, predict=lambda b: (90 + 7 * b) * MIB, journal=StoreJournal(store, run_id))
        second = FakeHardware()
        result = fit(second, predict=lambda b: (90 + 7 * b) * MIB, journal=StoreJournal(store, run_id))
    assert len(first.asked) == n_before
    assert not set(first.asked) & set(second.asked)
    assert first.asked + second.asked == [probe.batch for probe in whole.probes]
    assert result == whole


def test_another_limit_is_another_question():
    """A probe under 3 GiB answers nothing about 2 GiB."""
    journal, hardware = MemoryJournal(), FakeHardware()
    assert fit(hardware, journal=journal, limit_mib=500).batch == 57
    assert fit(hardware, journal=journal, limit_mib=300).batch == 28


def test_the_key_of_a_run_is_what_was_asked_where():
    """Not the spelling of the command, not the free memory: those change between a run and its continuation."""
    asked, where = {"models": ["a"], "command": "flopwatch fit a"}, {"torch": "2.13", "memory_free_bytes": 1}
    again = resume_key("fit", {**asked, "command": "flopwatch fit a --resume"}, {**where, "memory_free_bytes": 2})
    assert resume_key("fit", asked, where) == again
    for other in (
        resume_key("bench", asked, where),
        resume_key("fit", {**asked, "models": ["b"]}, where),
        resume_key("fit", asked, {**where, "torch": "2.14"}),
    ):
        assert other != again


def test_a_prediction_alone_is_never_called_verified():
    """Nothing ran: no probes, no proof, and the record says that the next was not tested."""
    result = predict_batch(request(limit_mib=200))
    assert result.batch is not None
    assert not result.verified
    assert result.probes == []
    assert result.next.how == "not tested"
    assert result.predicted_peak_bytes <= 200 * MIB


def test_a_sequence_longer_than_the_context_is_refused_before_anything_runs():
    """97 of 96 tokens: exit code 2, no probe."""
    hardware = FakeHardware()
    long = msgspec.structs.replace(request(), workload=Workload(seq_len=97, phase="train"))
    with pytest.raises(SpecError):
        fit_batch(long, ProbeSeries(run=hardware))
    assert hardware.asked == []


def test_a_child_s_error_keeps_its_kind():
    """A device that is not here is exit code 4 in the parent too; an unknown word is exit code 2."""
    for failure, kind in (("MissingError", MissingError), ("InputError", InputError)):
        answer = ProbeOutcome(outcome="crashed", failure=failure, error="no cuda device is here", wall_s=0.1)
        with pytest.raises(kind, match="no cuda device is here"):
            ProbeSeries(run=lambda _request, *, on_progress=None, answer=answer: answer).machine("cuda")
