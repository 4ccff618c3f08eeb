"""A fake device: out of memory at the same byte every time, and what leaks is seen."""

import gc
import math

import pytest
import torch
from torch import nn

from flopwatch.errors import InputError
from flopwatch.testing import FakeDevice


def test_a_tensor_is_its_bytes_as_long_as_it_lives():
    """7 x 11 in fp32 are 308 bytes; a view and an operator in place are none."""
    with FakeDevice(10_000) as device:
        a = torch.ones(7, 11)
        b = a.t()[1:]
        b.add_(1)
        assert device.allocated_bytes == 308
        c = a.double()
        assert device.allocated_bytes == 308 + 616
        del a, b
        assert device.allocated_bytes == 616
    del c
    assert (device.allocated_bytes, device.peak_bytes) == (0, 924)


def test_the_byte_after_the_budget_is_refused_and_nothing_of_it_stays():
    """400 of 400 bytes fit, 401 do not."""
    with FakeDevice(400) as device:
        kept = torch.zeros(100)
        assert device.allocated_bytes == 400
        with pytest.raises(torch.OutOfMemoryError, match=r"tried to allocate 1 B; 400 B of 400 B are in use"):
            torch.zeros(1, dtype=torch.uint8)
        assert (device.allocated_bytes, device.peak_bytes, device.n_out_of_memory) == (400, 400, 1)
        del kept
        torch.zeros(100)


def test_a_tensor_of_python_numbers_is_counted():
    """No operator makes it: 5 numbers, 20 bytes."""
    with FakeDevice(1_000) as device:
        kept = torch.tensor([1.5] * 5)
        assert device.allocated_bytes == 20
        del kept


def test_what_was_there_before_is_not_counted():
    """A model made outside is not the device's; the gradients made inside are: 5 x 3 + 3 numbers."""
    layer, rows = nn.Linear(5, 3), torch.ones(2, 5)
    with FakeDevice(10_000) as device:
        layer(rows).sum().backward()
        gc.collect()
        assert device.allocated_bytes == 18 * 4
        layer.weight.data.mul_(2)
        assert device.allocated_bytes == 18 * 4


def test_an_error_inside_backward_keeps_its_kind():
    """The engine of autograd hands torch.OutOfMemoryError on; on meta tensors no memory is touched at all."""
    x = torch.empty(1000, 1000, device="meta", requires_grad=True)
    with FakeDevice(9_000_000) as device:
        y = (x * 2).sum()  # 4 MB and a scalar
        with pytest.raises(torch.OutOfMemoryError):
            (y + x.exp().sum()).backward()
    assert device.peak_bytes <= 9_000_000


def test_a_held_exception_is_a_leak_that_shows():
    """The traceback owns the frames of the failed step, and these their tensors."""

    def fail():
        grown = [torch.zeros(100)]
        while True:
            grown.append(torch.zeros(100))

    with FakeDevice(2_000) as device:
        try:
            fail()
        except torch.OutOfMemoryError as error:
            held = error
        gc.collect()
        assert device.allocated_bytes == 2_000
        del held
        gc.collect()
        assert device.allocated_bytes == 0


def test_a_storage_that_grows_is_counted_at_its_new_size():
    """`resize_` is an allocation too."""
    with FakeDevice(1_000) as device:
        a = torch.zeros(10)
        a.resize_(30)
        assert device.allocated_bytes == 120


@pytest.mark.parametrize("budget", [0, -3, 1.5, True, math.nan, "1GiB", None])
def test_a_budget_that_is_no_number_of_bytes_is_refused(budget):
    """It counts from one byte, in whole ones."""
    with pytest.raises(InputError, match=f"a budget of {budget!r} bytes leaves nothing, or is no whole number"):
        FakeDevice(budget)
