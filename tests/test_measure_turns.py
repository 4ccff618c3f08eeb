"""Steps timed in turn: on a pretended clock, and as real processes."""

import os
import signal
from statistics import median

import msgspec
import psutil
import pytest

from flopwatch.errors import ProbeError
from flopwatch.measure.bench import BenchRequest
from flopwatch.measure.limit import given_limit
from flopwatch.measure.series import ProbeSeries
from flopwatch.measure.turns import time_in_turn
from flopwatch.model.own import own_model
from flopwatch.model.spec import ModelSpec
from flopwatch.probe.protocol import ProbeOutcome, ProbeRequest
from flopwatch.probe.runner import ProbeRunner
from flopwatch.probe.turns import TurnPlan, ratios_to_first, take_turns
from flopwatch.workload import Workload

SMALL = ModelSpec(name="small", n_layers=1, d_model=24, n_heads=2, vocab_size=211, max_seq_len=32)
CHATTY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        print('{"step_s": 1.0}')
        return self.linear(x)

def build():
    return Net(), {"x": torch.randn(4, 8)}
"""
QUICK = TurnPlan(turn_s=0.02, target_s=0.2, most_s=0.4)


class Machine:
    """Its clock moves by what a step takes, longer by the factor `slower` says of the time of day."""

    def __init__(self, slower):
        self.now_s, self.slower, self.order = 0.0, slower, []

    def member(self, place, seconds):
        def turn():
            self.order.append(place)
            took_s = seconds * self.slower(self.now_s)
            self.now_s += took_s
            return took_s

        return turn

    def rounds(self, *seconds, **plan):
        members = [self.member(place, one) for place, one in enumerate(seconds)]
        return list(take_turns(members, TurnPlan(**plan), clock=lambda: self.now_s))


def test_a_drift_of_the_machine_leaves_the_ratio():
    """1.0 and 1.1 s on a machine that loses a tenth of its speed a minute: 1 / 1.1 times as fast, to half a percent."""
    rounds = Machine(lambda now_s: 1 + now_s / 600).rounds(1.0, 1.1, target_s=30.0, most_s=30.0)
    assert rounds[-1][0] > 1.08 * rounds[0][0]
    (ratios,) = ratios_to_first(rounds)
    assert median(ratios) == pytest.approx(1 / 1.1, rel=0.005)


def test_no_step_always_comes_first():
    """Every other round goes backwards."""
    machine = Machine(lambda _now_s: 1.0)
    machine.rounds(1.0, 2.0, 3.0)
    assert machine.order[:9] == [0, 1, 2, 2, 1, 0, 0, 1, 2]


def test_rounds_end_when_the_ratio_is_known_or_the_time_is_up():
    """Steady: the target. Ratios that scatter by a fifth: the cap. Steps of minutes: five rounds, however unsure."""
    assert len(Machine(lambda _now_s: 1.0).rounds(0.1, 0.1, target_s=4.0)) == pytest.approx(40, abs=1)
    noisy = Machine(lambda _now_s: 1.0 + 0.2 * (len(noisy.order) % 4 == 1))
    assert len(noisy.rounds(0.5, 0.5, target_s=4.0, most_s=8.0)) >= 14
    assert len(Machine(lambda _now_s: 1.0).rounds(100.0, 100.0)) == 5


@pytest.fixture(scope="module")
def runner():
    """One that starts with the first test which needs it."""
    with ProbeRunner() as running:
        yield running


def requests(*batches, model=SMALL, limit_bytes=1 << 30, **work):
    works = [Workload(phase="train", seq_len=32, batch=batch, **work) for batch in batches]
    limit = given_limit(limit_bytes)
    return [BenchRequest(spec=model, workload=one, limit=limit, n_threads=1) for one in works]  # two wait for another


@pytest.mark.slow
def test_real_steps_in_turn_compare_as_their_work_does(runner):
    """500 times the sequences take more than twice the time; each has a timing with a sample a round."""
    found = time_in_turn(requests(2, 1000), ProbeSeries(run=runner.run), plan=QUICK)
    assert len(found.timings[0].samples_s) == len(found.timings[1].samples_s) == found.n_rounds >= 5
    assert found.timings[1].median_s > 2 * found.timings[0].median_s
    middle, low, high = found.speeds[1]
    assert low <= middle <= high
    assert middle < 0.5
    assert found.speeds[0] == (1.0, 1.0, 1.0)
    assert found.n_steps[0] >= found.n_steps[1] >= 1
    assert min(timing.n_warmup for timing in found.timings) >= 2


@pytest.mark.slow
def test_code_of_the_users_is_timed_in_turn_whatever_it_prints(runner, tmp_path, monkeypatch):
    """Its module is found where it lies, and what it prints is no answer."""
    (tmp_path / "chatty.py").write_text(CHATTY)
    monkeypatch.chdir(tmp_path)
    model = own_model("chatty:build")
    found = time_in_turn(requests(4, 4, model=model), ProbeSeries(run=runner.run), plan=QUICK)
    assert 0 < found.timings[0].median_s < 0.5
    assert 0.2 < found.speeds[1][0] < 5


@pytest.mark.slow
def test_a_step_that_fails_beside_the_others_is_an_error_with_its_words(runner):
    """More sequences than memory holds; the process of the other is gone too."""
    with pytest.raises(ProbeError, match="oom"):
        time_in_turn(requests(4, 1 << 16, limit_bytes=100 << 20), ProbeSeries(run=runner.run), plan=QUICK)
    assert not left_behind()


@pytest.mark.slow
def test_a_process_that_is_killed_is_an_error_and_no_other_stays(runner):
    """The first of two dies in the middle of its turns."""
    killed = []

    def kill_one(_rows):
        members = left_behind()
        if members and not killed:
            killed.append(members[0])
            os.kill(members[0], signal.SIGKILL)

    probe = ProbeRequest(
        job="time_in_turn",
        arguments={
            "steps": [request.probe().arguments for request in requests(4, 5)],
            "turn_plan": {"turn_s": 0.3, "target_s": 60.0, "most_s": 60.0},
        },
        timeout_s=100.0,
    )
    outcome = runner.run(probe, on_progress=kill_one)
    assert isinstance(outcome, ProbeOutcome)
    assert killed
    assert outcome.outcome == "crashed"
    assert "ended (exit code -9)" in outcome.error
    assert outcome.partial
    assert not left_behind()


def left_behind():
    """The processes of this test's own tree that take turns."""
    mine = psutil.Process().children(recursive=True)
    return [one.pid for one in mine if one.is_running() and "flopwatch.probe.turn_member" in _command(one)]


def _command(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_turns_that_were_taken_are_not_taken_again():
    """A series that goes on answers from its journal."""
    asked = []

    def answer(request, *, on_progress=None):
        asked.append(msgspec.to_builtins(request))
        result = {"rounds": [[1.0, 2.0]] * 5, "n_steps": [1, 1], "n_warmup": [3, 3], "others_cores": None}
        return ProbeOutcome(outcome="ok", result=result, wall_s=1.0)

    series = ProbeSeries(run=answer)
    first = time_in_turn(requests(4, 8), series)
    assert time_in_turn(requests(4, 8), series) == first
    assert len(asked) == 1
    assert first.speeds[1] == (0.5, 0.5, 0.5)
