"""A meter whose clock, device or loop is not what it should be: told once, and never divided by."""

import warnings

import pytest
import torch

import flopwatch as fw
from flopwatch.errors import InputError
from meter_clock import LINEAR, PAIR, Clock, make_meter, run_steps


def test_a_clock_that_goes_backwards_costs_one_step_and_is_told_once():
    """1 s a step but for one of -50 s and one of -3 s: the rate stays, the two steps are left out."""
    clock = Clock()
    meter = make_meter(clock)
    with pytest.warns(fw.MeterWarning, match="the clock went backwards") as seen:
        found = run_steps(meter, clock, (1, 1, -50, 1, -3, 1))
    assert len(seen) == 1
    assert found["perf/step_s"] == pytest.approx(1)
    assert found["perf/goodput"] == pytest.approx(1)
    assert meter.notes == ["the clock went backwards: a step or a pause was not counted"]


def test_a_clock_that_goes_backwards_in_a_pause_leaves_the_step_its_own_time():
    """0.75 s before the pause and 0.25 s after it."""
    clock = Clock()
    meter = make_meter(clock)
    clock.pass_s(0.75)
    with pytest.warns(fw.MeterWarning, match="backwards"), meter.pause("eval"):
        clock.pass_s(-40)
    clock.pass_s(0.25)
    assert meter.step(tokens=35)["perf/step_s"] == pytest.approx(1)
    assert meter.summary()["perf/paused_s"] == 0


def test_a_coarse_clock_still_gives_the_right_rate():
    """Steps of 5 ms on ticks of 15 ms: two of three steps take no time, and 300 take 1.5 s."""
    clock = Clock()
    meter = make_meter(clock)
    with pytest.warns(fw.MeterWarning, match="ticks are longer than a step") as seen:
        found = run_steps(meter, clock, (0, 0, 0.015) * 100)
    assert len(seen) == 1
    assert found["perf/tokens_per_s"] == pytest.approx(35 / 0.005)


def test_a_clock_that_stands_still_gives_no_rate():
    """Nothing is divided by zero, and the line says why there is nothing."""
    meter = make_meter(Clock())
    with pytest.warns(fw.MeterWarning, match="stood still"):
        assert meter.step(tokens=35) == {}
    assert meter.line() == "step 1: n/a (the clock stands still)"
    assert meter.summary()["perf/goodput"] == 0


def test_a_clock_of_nan_is_no_time():
    """NaN compares with nothing."""
    clock = Clock()
    meter = make_meter(clock)
    clock.pass_s(float("nan"))
    with pytest.warns(fw.MeterWarning, match="backwards"):
        assert meter.step(tokens=35) == {}


def test_a_slower_step_shows_in_the_window_at_once():
    """Twenty steps of 1 s and one of 6 s within a window of 5: (4 + 6) / 5."""
    clock = Clock()
    meter = make_meter(clock, window_steps=5)
    found = run_steps(meter, clock, (*[1] * 20, 6))
    assert found["perf/step_s"] == pytest.approx(2)


def test_more_than_all_of_the_peak_is_warned_about_once_with_its_causes():
    """A peak of a tenth of what the loop does."""
    clock = Clock()
    meter = make_meter(clock, peak_flops_per_s=1e8)
    with pytest.warns(fw.MeterWarning, match="above 100 %: usual causes: tokens of all ranks") as seen:
        found = run_steps(meter, clock, (1, 1, 1), tokens=200_000)
    assert len(seen) == 1
    assert found["perf/mfu"] == pytest.approx(200_000 * (LINEAR + 5 * PAIR) / 1e8)  # shown as it is, not cut to 1
    assert "MFU" in str(seen[0].message)
    assert "100.0 MFLOP/s (bf16, given)" in str(seen[0].message)


def test_a_step_within_a_pause_belongs_to_the_pause():
    """An evaluation that trains a probe, say: its steps are no steps of the run."""
    clock = Clock()
    meter = make_meter(clock)
    with meter.pause("eval"):
        clock.pass_s(3)
        with pytest.warns(fw.MeterWarning, match=r"within pause\('eval'\)"):
            assert meter.step(tokens=35) == {}
    clock.pass_s(1)
    assert meter.step(tokens=35)["perf/step_s"] == pytest.approx(1)
    assert meter.n_steps == 1


def test_work_added_within_a_pause_is_no_work_of_the_run():
    """An evaluation that shares the loop's `add`: its 4000 tokens have no time, and the step's 35 took 1 s."""
    clock = Clock()
    meter = make_meter(clock)
    clock.pass_s(1)
    with meter.pause("eval"):
        clock.pass_s(1)
        with pytest.warns(fw.MeterWarning, match=r"work was added within pause\('eval'\): it was not counted"):
            meter.add(tokens=1000)
        for _ in range(3):
            clock.pass_s(1)
            meter.add(tokens=1000)
    assert meter.step(tokens=35)["perf/tokens_per_s"] == pytest.approx(35)


def test_a_step_within_a_pause_leaves_the_micro_batches_before_it_to_their_own_step():
    """Micro-batches of 1 s and 35 tokens around a pause with a step of its own: 70 tokens in 2 s."""
    clock = Clock()
    meter = make_meter(clock)
    clock.pass_s(1)
    meter.add(tokens=35)
    with meter.pause("eval"):
        clock.pass_s(1)
        with pytest.warns(fw.MeterWarning, match=r"a step ended within pause\('eval'\)"):
            meter.step(tokens=1000)
    clock.pass_s(1)
    assert meter.step(tokens=35)["perf/tokens_per_s"] == pytest.approx(35)


def test_a_loop_without_tokens_is_not_said_to_get_faster():
    """Nothing tells when its warm-up is over."""
    clock = Clock()
    meter = make_meter(clock, warmup_steps=None)
    with pytest.warns(fw.MeterWarning, match="^30 warm-up steps had no tokens; steps are counted from here"):
        run_steps(meter, clock, [1] * 30, tokens=0)


@pytest.mark.parametrize("work", [{"tokens": torch.tensor(35)}, {"lengths": torch.tensor([3, 7])}])
def test_a_tensor_is_refused_because_reading_it_would_wait(work):
    """`.item()` of a tensor on a device stops the loop until the device is done."""
    meter = make_meter(Clock())
    with pytest.raises(InputError, match="counted on the host"):
        meter.step(**work)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"clock": 3}, "clock=3 cannot be called"),
        ({"window_steps": True}, "window_steps=True"),
        ({"warmup_steps": 1.5}, "warmup_steps=1.5"),
        ({"model": "gpt-small", "flops_per_token": None, "convention": 3}, "convention=3 is none"),
        ({"n_devices": "2"}, "n_devices='2' is no multiple"),
    ],
)
def test_what_a_meter_cannot_work_with_is_refused(options, said):
    """In one line, when it is made and not in the middle of a training run."""
    with pytest.raises(InputError, match=said):
        fw.Meter(**{"flops_per_token": 6e6, "device": "cpu", **options})


@pytest.mark.parametrize("name", [[], None, 3])
def test_a_pause_has_a_name(name):
    """It becomes the name of a figure."""
    meter = make_meter(Clock())
    with pytest.raises(InputError, match="is no name of a pause"), meter.pause(name):
        pytest.fail("the pause began")
    with pytest.raises(InputError, match="is no name of a pause"):
        meter.skip(name)


def test_nothing_is_asked_of_a_device(monkeypatch):
    """Zero synchronisations, events and reads of tensors in a loop with a pause and everything that a step takes."""
    calls = []

    def watch(owner, name):
        monkeypatch.setattr(owner, name, lambda *_, **__: calls.append(name))

    for owner in (torch.accelerator, torch.cuda, torch.mps, torch.xpu, torch.cpu):
        watch(owner, "synchronize")
    for name in ("item", "tolist", "cpu", "__int__", "__index__", "__float__", "__bool__"):
        watch(torch.Tensor, name)
    for name in ("all_gather_object", "all_reduce", "barrier"):
        watch(torch.distributed, name)
    torch.accelerator.synchronize()
    assert calls == ["synchronize"]  # the watch works
    calls.clear()
    clock = Clock()
    meter = make_meter(clock)
    for _ in range(50):
        clock.pass_s(1)
        meter.add(tokens=5)
        meter.step(lengths=[3, 20])
        with meter.pause("eval"):
            clock.pass_s(1)
        meter.line()
    assert calls == []


def test_no_step_talks_to_another_rank(monkeypatch):
    """A collective in a step would make every rank wait for the slowest, once a step."""
    monkeypatch.setattr("flopwatch.api.meter._distributed", lambda: pytest.fail("a step asked for the process group"))
    clock = Clock()
    monkeypatch.setattr("flopwatch.api.meter._group", dict)
    meter = make_meter(clock)
    clock.pass_s(1)
    assert meter.step(tokens=35)
    assert meter.line()


def test_a_meter_is_quiet_when_nothing_is_wrong():
    """No warning from a plain loop."""
    clock = Clock()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        meter = make_meter(clock)
        for _ in range(5):
            clock.pass_s(1)
            meter.step(tokens=35)
        meter.summary()
    assert meter.notes == []
