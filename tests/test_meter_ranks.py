"""Several ranks: tokens summed, the slowest step taken, and only when asked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import flopwatch as fw
from flopwatch.errors import InputError
from flopwatch.measure import meter as measure
from meter_clock import LINEAR, PAIR, Clock, make_meter

HERE = Path(__file__).parent
FLOPS_PER_TOKEN = LINEAR + 5 * PAIR


@pytest.fixture
def two_ranks(monkeypatch):
    """The environment that torchrun sets, without a process group."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")


@pytest.mark.slow
def test_two_gloo_ranks_under_torchrun_sum_their_tokens_and_take_the_slowest_step(tmp_path):
    """35 tokens in 0.5 s beside 20 tokens in 0.8 s: 55 tokens a step of 0.8 s, over two peaks of 1 GFLOP/s."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*command, str(HERE / "meter_two_ranks.py"), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["gather"] == second["gather"]
    assert first["gather"] == pytest.approx(
        {
            "perf/step_s": 0.8,
            "perf/tokens_per_s": 55 / 0.8,
            "perf/tokens_per_s_per_device": 55 / 0.8 / 2,
            "perf/model_flops_per_s_per_device": 55 / 0.8 / 2 * FLOPS_PER_TOKEN,
            "perf/mfu": 55 / 0.8 * FLOPS_PER_TOKEN / 2e9,
            "perf/hfu": 55 / 0.8 * FLOPS_PER_TOKEN / 2e9,
            "perf/goodput": (10.0 + 7.2) / (10.0 + 7.2 + 5.8 + 4),
            "perf/slowest_rank": 1.0,
        },
        rel=1e-9,
    )
    # Rank 0 has no warm-up: its first step of 5.5 s makes its mean 1 s, which is the slowest over the whole run.
    assert first["summary"]["perf/step_s"] == pytest.approx(1.0)
    assert first["summary"]["perf/slowest_rank"] == 0
    assert first["summary"]["perf/tokens_per_s"] == pytest.approx(55 / 1.0)
    # A step alone tells of its own rank, under names that say so.
    assert first["own"]["perf/tokens_per_s_per_device"] == pytest.approx(35 / 0.5)
    assert "perf/tokens_per_s" not in first["own"]
    assert "25 tokens/s a device" in second["line"]


def test_a_rank_alone_tells_only_of_its_own_device(two_ranks):
    """Tokens of the other rank are not known, and not guessed."""
    clock = Clock()
    meter = make_meter(clock)
    clock.pass_s(0.5)
    found = meter.step(tokens=35)
    assert found["perf/tokens_per_s_per_device"] == 70
    assert found["perf/mfu"] == pytest.approx(70 * FLOPS_PER_TOKEN / 1e9)
    assert "perf/tokens_per_s" not in found


def test_a_summary_without_a_process_group_says_that_it_is_one_ranks(two_ranks):
    """WORLD_SIZE promises a group that is not there."""
    clock = Clock()
    meter = make_meter(clock)
    clock.pass_s(0.5)
    meter.step(tokens=35)
    with pytest.warns(fw.MeterWarning, match="WORLD_SIZE is 2 and there is no process group"):
        assert "perf/tokens_per_s" not in meter.summary()


def test_ranks_of_one_replica_share_their_tokens(two_ranks):
    """Tensor parallel over both ranks: each is told all 35 tokens and did half of their work."""
    clock = Clock()
    meter = make_meter(clock, ranks_per_replica=2)
    clock.pass_s(0.5)
    found = meter.step(tokens=35)
    assert found["perf/tokens_per_s_per_device"] == 35
    assert found["perf/mfu"] == pytest.approx(35 * FLOPS_PER_TOKEN / 1e9)


def test_one_process_may_have_several_devices():
    """8 devices behind one process: their tokens/s together, the share of 8 peaks."""
    clock = Clock()
    meter = make_meter(clock, n_devices=8)
    clock.pass_s(0.5)
    found = meter.step(tokens=35)
    assert found["perf/tokens_per_s"] == 70
    assert found["perf/tokens_per_s_per_device"] == 70 / 8
    assert found["perf/mfu"] == pytest.approx(70 * FLOPS_PER_TOKEN / 8e9)


def _before_its_group(clock, **options):
    """A meter made where nothing told of ranks; whoever asks for all of them finds two alike."""
    alone = make_meter(clock, **options)
    return measure.Meter(
        cost=alone.cost,
        peak=alone.peak,
        ranks=alone.ranks,
        warmup_steps=0,
        clock=clock,
        exchange=lambda row: [row, row],
    )


def test_a_group_that_was_made_after_the_meter_is_found_when_it_is_asked():
    """Without RANK and WORLD_SIZE: two ranks alike have twice the tokens, and a step no longer speaks for both."""
    clock = Clock()
    meter = _before_its_group(clock)
    clock.pass_s(0.5)
    assert meter.step(tokens=35)["perf/tokens_per_s"] == 70
    assert meter.gather()["perf/tokens_per_s"] == 140
    assert meter.gather()["perf/mfu"] == pytest.approx(70 * FLOPS_PER_TOKEN / 1e9)
    clock.pass_s(0.5)
    assert "perf/tokens_per_s" not in meter.step(tokens=35)


def test_devices_that_were_given_are_shared_by_a_group_made_after_the_meter():
    """8 devices of all ranks are 4 of each of two, not 8: an MFU of twice the tokens over 8 peaks."""
    clock = Clock()
    meter = _before_its_group(clock, n_devices=8)
    clock.pass_s(0.5)
    meter.step(tokens=35)
    found = meter.gather()
    assert found["perf/tokens_per_s_per_device"] == 140 / 8
    assert found["perf/mfu"] == pytest.approx(140 * FLOPS_PER_TOKEN / 8e9)


@pytest.mark.parametrize(
    ("environment", "options", "text"),
    [
        ({"WORLD_SIZE": "two"}, {}, "WORLD_SIZE='two'"),
        ({"WORLD_SIZE": "0"}, {}, "from 1 on"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, {}, "RANK=2 is not below WORLD_SIZE=2"),
        ({"WORLD_SIZE": "2"}, {"n_devices": 3}, "n_devices=3 is no multiple"),
        ({"WORLD_SIZE": "4"}, {"ranks_per_replica": 3}, "ranks_per_replica=3 does not divide"),
    ],
)
def test_ranks_that_contradict_each_other_are_refused(monkeypatch, environment, options, text):
    """Each with the value and the rule."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=text):
        make_meter(Clock(), **options)
