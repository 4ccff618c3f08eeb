"""The search for the fastest matmul shape, on made-up devices whose every rate is known."""

import itertools

import pytest

from flopwatch.probe.shape_search import SearchPlan, Shape, coarse_shapes, search_shapes


class Device:
    """A device with a clock of its own: each sample takes what `rate` says and moves the clock."""

    def __init__(self, rate):
        self.rate = rate
        self.now_s = 0.0
        self.n_samples = 0

    def sample(self, shape):
        self.n_samples += 1
        call_s = shape.flops / self.rate(shape, self.n_samples)
        self.now_s += max(call_s, 0.02)
        return call_s

    def search(self, **plan):
        rows = list(search_shapes(self.sample, SearchPlan(**plan), clock=lambda: self.now_s))
        return rows[-1], rows


def test_the_summary_is_the_rate_of_a_flat_device():
    """Every shape at 200 GFLOP/s: that is the peak, and the samples do not differ."""
    found, rows = Device(lambda _shape, _n: 200e9).search()
    assert found["flops_per_s"] == pytest.approx(200e9)
    assert found["spread_fraction"] == pytest.approx(0)
    assert found["stage"] == "final"
    assert found["n_shapes"] == len(rows) - 1 >= 60


def test_a_ridge_off_the_cubes_is_found():
    """A device that likes n = 4 m: its best is 1.4 of a cube's, and near 1.4 is reached."""

    def rate(shape, _n):
        return 100e9 * (1.4 if 3.5 <= shape.n / shape.m <= 4.5 else 1.0)

    found, _ = Device(rate).search()
    m, n, _k = found["shape"]
    assert found["flops_per_s"] == pytest.approx(140e9)
    assert n / m == pytest.approx(4, rel=0.13)


def test_a_layout_that_is_faster_is_found():
    """The transposed operand runs a quarter faster."""
    found, _ = Device(lambda shape, _n: 125e9 if shape.layout == "nt" else 100e9).search()
    assert (found["layout"], found["flops_per_s"]) == ("nt", pytest.approx(125e9))


def test_a_fast_path_for_large_shapes_only_is_not_missed():
    """bf16 of a CPU: 4 GFLOP/s for small ones, 262 from 1024 on. The first small matmul is not the answer."""
    found, _ = Device(lambda shape, _n: 262e9 if min(shape.m, shape.n, shape.k) >= 1024 else 4e9).search()
    assert found["flops_per_s"] == pytest.approx(262e9)


def test_an_emulated_dtype_is_not_asked_for_hours():
    """fp16 of a CPU: 2 GFLOP/s, a tenth once out of the cache. The search stays near its budget."""
    device = Device(lambda shape, _n: 2e9 if shape.flops < 3e8 else 0.2e9)
    found, _ = device.search(budget_s=8.0)
    assert found["flops_per_s"] == pytest.approx(2e9)
    assert device.now_s < 16


def test_a_lucky_sample_of_the_coarse_stage_does_not_win():
    """One sample in 23 reads twice as fast: the finalists are sampled anew, and the median decides."""
    device = Device(lambda _shape, n: 200e9 if n % 23 == 0 else 100e9)
    found, _ = device.search()
    assert found["flops_per_s"] == pytest.approx(100e9)
    assert found["best_flops_per_s"] == pytest.approx(200e9)


def test_rounds_of_a_device_that_warms_up_are_dropped():
    """A clock that rises in the middle of the finals: the slow half is left out."""
    device = Device(lambda _shape, _n: 100e9 if device.now_s < 6.5 else 150e9)
    found, _ = device.search(budget_s=8.0)
    assert found["drift_fraction"] < -0.03
    assert found["n_dropped"] > 0
    assert found["flops_per_s"] == pytest.approx(150e9)


def test_a_device_that_throttles_shows_a_drift():
    """A clock that falls in the middle of the finals: slower by half at the end."""
    device = Device(lambda _shape, _n: 150e9 if device.now_s < 6.5 else 100e9)
    found, _ = device.search(budget_s=8.0)
    assert found["drift_fraction"] == pytest.approx(0.5, abs=0.01)
    assert found["n_dropped"] == 0


def test_no_shape_outgrows_the_memory():
    """Both operands and the result together stay within the elements allowed."""
    asked = []

    def rate(shape, _n):
        asked.append(shape)
        return 900e9

    Device(rate).search(most_elements=1 << 21)
    assert asked
    assert max(shape.n_elements for shape in asked) <= 1 << 21


def test_coarse_shapes_are_aligned_and_of_the_volume_asked_for():
    """About the work of one call, in many proportions, no shape twice."""
    shapes = coarse_shapes(2e10, 1 << 31)
    assert len(shapes) == len(set(shapes)) > 40
    assert all(size % 64 == 0 for shape in shapes for size in (shape.m, shape.n, shape.k))
    assert all(1e9 < shape.flops < 3e10 for shape in shapes)


def test_a_shape_knows_its_work_and_memory():
    """[3, 7] @ [7, 5]: 2 x 105 operations; 21 + 35 + 15 elements."""
    assert (Shape(3, 5, 7).flops, Shape(3, 5, 7).n_elements) == (210, 71)


def test_the_search_keeps_to_its_budget():
    """16 s of search end before 17 on any of several speeds."""
    for rate, budget_s in itertools.product((50e9, 5e12, 500e12), (4.0, 16.0)):
        device = Device(lambda _shape, _n, rate=rate: rate)
        device.search(budget_s=budget_s)
        assert device.now_s < budget_s + 5
