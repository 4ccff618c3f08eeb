"""Warm-up, samples and what follows from them, on a clock that the test moves."""

import random

import pytest

from flopwatch.errors import ProbeError
from flopwatch.measure.timing import interval_of_median, quantile, timing_of
from flopwatch.probe.sampling import SamplePlan, sample_steps


class Clock:
    """A clock that moves when the step runs, and by `read_s` each time it is read; it shows whole `tick_s`."""

    def __init__(self, *, tick_s=1e-9, read_s=1e-7):
        self.now_s, self.tick_s, self.read_s = 0.0, tick_s, read_s
        self.n_steps = 0

    def __call__(self):
        self.now_s += self.read_s
        return int(self.now_s / self.tick_s) * self.tick_s

    def step(self, duration_of):
        def run():
            self.now_s += duration_of(self.n_steps)
            self.n_steps += 1

        return run


def sample(clock, duration_of, **plan):
    rows = list(sample_steps(clock.step(duration_of), SamplePlan(**plan), clock=clock, settle=lambda: None))
    return rows[-1], rows[:-1]


def test_warm_up_goes_on_while_it_pays_and_is_no_sample():
    """Steps of 9, 4, 2, 1.5 s and then 1.5 for ever: five warm-up steps, and samples of 1.5 s only."""
    summary, rows = sample(Clock(), lambda n: [9.0, 4.0, 2.0, 1.5][n] if n < 4 else 1.5, max_warmup_s=100)
    assert summary["n_warmup"] == 5
    assert summary["is_steady"]
    assert summary["samples_s"] == pytest.approx([1.5] * 5, rel=1e-6)
    assert [round(row["warmup_s"], 3) for row in rows[:5]] == [9.0, 4.0, 2.0, 1.5, 1.5]


def test_warm_up_has_a_cap_and_says_when_it_hit_it():
    """A step that gets 10 % faster each time never settles."""
    summary, _ = sample(Clock(), lambda n: 0.9**n, max_warmup=7)
    assert summary["n_warmup"] == 7
    assert not summary["is_steady"]
    timing = timing_of(summary["samples_s"], n_warmup=7, is_steady=False)
    assert "warm-up was cut off" in timing.notes[0]


def test_a_slow_step_is_sampled_five_times_and_a_fast_one_for_the_target():
    """Never fewer than five; at 0.1 s a step, 4 s hold 40; and a step of 3 ms fills them as well, two to a sample."""
    assert len(sample(Clock(), lambda _n: 30.0)[0]["samples_s"]) == 5
    assert len(sample(Clock(), lambda _n: 0.1)[0]["samples_s"]) == pytest.approx(40, abs=1)
    summary = sample(Clock(), lambda _n: 0.003)[0]
    assert summary["n_steps"] == 2
    assert sum(summary["samples_s"]) * 2 == pytest.approx(4.0, rel=0.01)


def test_samples_that_differ_are_taken_for_longer_until_the_median_is_known():
    """Steps of 1.0 and 1.2 s in turn: after 4 s the median is known to 5 %, which is not enough; 16 s are the cap."""
    uneven = sample(Clock(), lambda n: 1.0 + 0.2 * (n % 2))[0]["samples_s"]
    assert 14 <= len(uneven) <= 16
    slightly = sample(Clock(), lambda n: 1.0 + 0.02 * (n % 2))[0]["samples_s"]
    assert len(slightly) == 5
    assert len(sample(Clock(), lambda n: 1.0 + 0.2 * (n % 2), most_s=4.0, few_samples=5)[0]["samples_s"]) == 5


def test_a_slow_step_whose_samples_differ_gets_ten_of_them():
    """Steps of 3 and 4 s in turn: 16 s hold five, which say little; ten do, within 40 s. Steps of 9 s do not go on."""
    assert len(sample(Clock(), lambda n: 3.0 + n % 2)[0]["samples_s"]) == 10
    assert len(sample(Clock(), lambda n: 9.0 + 3 * (n % 2))[0]["samples_s"]) == 5
    assert len(sample(Clock(), lambda _n: 3.0)[0]["samples_s"]) == 5


def test_samples_of_a_machine_whose_speed_drifts_are_not_taken_for_many():
    """20 and 24 ms by turns of a second: 200 samples are as good as four. Of a step that alternates they are 200."""
    drifting = sample(Clock(), lambda n: 0.020 + 0.004 * (n // 50 % 2), most_s=9.0)[0]["samples_s"]
    assert sum(drifting) == pytest.approx(9.0, rel=0.01)
    alternating = sample(Clock(), lambda n: 0.020 + 0.001 * (n % 2))[0]["samples_s"]
    assert sum(alternating) == pytest.approx(4.0, rel=0.05)


def test_a_warm_up_that_was_cut_off_but_paid_no_more_is_steady():
    """Steps that scatter by 10 % look as if they got faster; the samples that follow say that they did not."""
    scatter = sample(Clock(), lambda n: 4.0 - 0.4 * (n % 2), max_warmup=4)[0]
    assert scatter["n_warmup"] <= 4
    assert scatter["is_steady"]
    assert not sample(Clock(), lambda n: 4.0 * 0.93**n, max_warmup=4)[0]["is_steady"]


def test_a_coarse_clock_is_read_over_many_steps():
    """A 16 ms tick cannot show a 1 ms step; over thousands of steps it can, to a percent."""
    clock = Clock(tick_s=0.0156)
    summary, _ = sample(clock, lambda _n: 0.001)
    assert summary["n_steps"] * 0.001 > 100 * 0.0156
    assert summary["samples_s"] == pytest.approx([0.001] * len(summary["samples_s"]), rel=0.01)


def test_a_clock_that_stands_still_is_an_error():
    """Never a step of 0 s, never a loop without end."""
    with pytest.raises(ProbeError, match="clock stands still"):
        list(sample_steps(lambda: None, SamplePlan(), clock=lambda: 7.0, settle=lambda: None))


def test_a_clock_that_runs_fast_is_found_by_a_second_one():
    """A clock 10 % fast shows 0.55 s of a 0.5 s step; the second one moved 1 / 1.1 as far."""

    class Fast(Clock):
        def __call__(self):
            return 1.1 * super().__call__()

    clock = Fast()
    step = clock.step(lambda _n: 0.5)
    rows = list(sample_steps(step, SamplePlan(), clock=clock, settle=lambda: None, second_clock=lambda: clock.now_s))
    assert rows[-1]["samples_s"][0] == pytest.approx(0.55)
    assert rows[-1]["clock_ratio"] == pytest.approx(1 / 1.1, rel=1e-4)
    assert sample(Clock(), lambda _n: 0.5)[0]["clock_ratio"] is None


def test_a_step_that_takes_no_time_is_an_error():
    """The clock moves but the step does nothing that it could show."""
    clock = Clock(tick_s=10.0, read_s=0.001)
    with pytest.raises(ProbeError, match="nothing to time"):
        list(sample_steps(lambda: None, SamplePlan(), clock=clock, settle=lambda: None))


def test_what_is_still_running_is_part_of_the_step():
    """On a device a step returns early; its time ends when the device has settled."""
    clock = Clock()
    pending = []

    def settle():
        clock.now_s += sum(pending)
        pending.clear()

    rows = list(sample_steps(lambda: pending.append(0.5), SamplePlan(), clock=clock, settle=settle))
    assert rows[-1]["samples_s"] == pytest.approx([0.5] * len(rows[-1]["samples_s"]), rel=1e-4)


def test_steps_that_were_run_before_count_as_warm_up():
    """Two done: two more are needed to see that they are steady."""
    clock = Clock()
    rows = list(sample_steps(clock.step(lambda _n: 0.5), SamplePlan(), clock=clock, settle=lambda: None, n_done=2))
    assert rows[-1]["n_warmup"] == 4


def test_the_median_and_the_percentiles_are_numpys():
    """numpy.percentile of these nine, with its default interpolation: 1.8, 5.0, 8.2."""
    timing = timing_of([9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0], n_warmup=2)
    assert (timing.p10_s, timing.median_s, timing.p90_s) == pytest.approx((1.8, 5.0, 8.2))
    assert quantile([1.0, 2.0, 4.0], 0.75) == 3.0
    assert timing_of([3.0], n_warmup=1).p90_s == 3.0


def test_an_outlier_is_counted_and_does_not_move_the_median():
    """One pause of 9 s among ten steps of about 1 s."""
    samples = [1.0, 1.01, 0.99, 1.02, 9.0, 1.0, 0.98, 1.01, 1.0, 0.99]
    timing = timing_of(samples, n_warmup=2)
    assert timing.median_s == 1.0
    assert timing.n_outliers == 1
    assert any("1 of 10 samples lie far out" in note for note in timing.notes)
    assert 0.98 <= timing.median_low_s <= 1.0 <= timing.median_high_s <= 1.02


def test_a_machine_that_slows_down_is_noticed():
    """Throttling: each step 3 % slower than the one before."""
    timing = timing_of([1.03**n for n in range(12)], n_warmup=2)
    assert any("slower while they were timed" in note for note in timing.notes)


def test_quiet_samples_give_no_notes():
    """A note that is always there is read by nobody."""
    assert timing_of([1.0, 1.001, 0.999, 1.0, 1.002, 1.0], n_warmup=2).notes == []


def test_the_interval_is_the_same_each_time():
    """Resampling is seeded: the same samples, the same record."""
    samples = [1.0, 1.3, 0.8, 1.1, 1.7, 0.9]
    assert timing_of(samples, n_warmup=2) == timing_of(samples, n_warmup=2)


@pytest.mark.parametrize("samples", [[], [1.0, 0.0], [1.0, -0.5]])
def test_samples_that_cannot_be_are_an_error(samples):
    """No samples, no time, or time that runs backwards."""
    with pytest.raises(ProbeError):
        timing_of(samples, n_warmup=2)


def walk(n, *, r, seed):
    """Samples each of which is `r` times the one before, and something new; their true median is 1."""
    draw, samples, now = random.Random(seed), [], 0.0
    for _ in range(n):
        now = r * now + draw.gauss(0, 0.02) * (1 - r * r) ** 0.5
        samples.append(1 + now)
    return samples


def test_the_interval_of_samples_that_are_alike_their_neighbours_is_as_wide_as_few_of_them_have_it():
    """The true median lies in it 80 times of 100 and more, where resampling one by one holds it 40 times."""
    held = sum(low <= 1 <= high for low, high in (interval_of_median(walk(60, r=0.9, seed=n)) for n in range(100)))
    assert held >= 70
    alone = sum(low <= 1 <= high for low, high in (interval_of_median(walk(60, r=0.0, seed=n)) for n in range(100)))
    assert alone >= 88


def test_independent_samples_are_resampled_one_by_one():
    """Their order says nothing: sorted by chance or not, 59 equal ones and an outlier give the interval of a point."""
    assert interval_of_median([1.0] * 59 + [7.0]) == (1.0, 1.0)
    assert interval_of_median([1.0] * 4 + [7.0]) == (1.0, 7.0)
