"""fw.fit(step=...): the answer, and a process that holds as much memory after the search as before it."""

import gc

import pytest
import torch
from torch import nn

import flopwatch as fw
from flopwatch.errors import InputError
from flopwatch.measure.batch_search import Grid
from flopwatch.testing import FakeDevice

ROW_BYTES = 4 * 250  # of one sequence in the steps below


def plain(batch):
    """Two arrays at once: 2 x 1000 B a sequence."""
    a = torch.zeros(batch, 250)
    return a + 1


def outputs_of_the_notebook(batch):
    """`output` and `loss` are names of the frame that fails, and the output has a graph behind it."""
    x = torch.zeros(batch, 250, requires_grad=True)
    output = (x * 2).exp()
    loss = output.sum()
    loss.backward()
    return output, loss, x


def cache_emptied_inside_except(batch):
    """The notebook's order: at that point the traceback still owns the tensors."""
    try:
        return outputs_of_the_notebook(batch)
    except RuntimeError:
        torch.cuda.empty_cache()
        gc.collect()
        raise


held = []


def error_kept(batch):
    """A logger, a debugger or `sys.last_value` may keep the error, and with it the frames of the failed step."""
    try:
        return outputs_of_the_notebook(batch)
    except RuntimeError as error:
        held.append(error)
        raise


def error_of_an_error(batch):
    """What was raised is not what ran out of memory; the chain leads there."""
    try:
        return outputs_of_the_notebook(batch)
    except RuntimeError as error:
        held.append(error)
        raise RuntimeError("CUDA out of memory (of some wrapper)") from error


def cycle(batch):
    """A frame that refers to itself: only the collector frees it."""
    a = [torch.zeros(batch, 250)]
    a.append(a)
    return a[0] + 1


LEAKY = [plain, outputs_of_the_notebook, cache_emptied_inside_except, error_kept, error_of_an_error, cycle]


@pytest.fixture
def device():
    return FakeDevice(100_000)


@pytest.mark.parametrize("step", LEAKY, ids=lambda step: step.__name__)
def test_memory_after_the_search_is_memory_before_it(device, step):
    """Something of the caller's stays alive and is all that stays; the answer is that of a clean device each time."""
    held.clear()
    with device:
        mine = torch.zeros(13)
        found = fw.fit(step=step, device=device)
        assert device.allocated_bytes == 52
        assert (found.held_bytes, found.leaked_bytes) == (0, 0)
        del mine
    truth = next(batch for batch in range(1, 101) if not runs_alone(step, batch)) - 1
    assert (found.batch, found.verified) == (truth, True)
    assert (found.next.batch, found.next.outcome, found.next.how) == (truth + 1, "oom", "ran")
    assert device.n_out_of_memory >= 1
    held.clear()


def runs_alone(step, batch):
    """Whether the step runs on a fresh device that holds the caller's 52 bytes."""
    with FakeDevice(100_000 - 52):
        try:
            step(batch)
        except RuntimeError:
            return False
    return True


def test_a_plain_step_by_hand(device):
    """100,000 B hold 50 sequences of 2 x 1000 B."""
    found = fw.fit(step=plain, device=device)
    assert (found.batch, found.peak_bytes, found.limit_bytes) == (50, 100_000, 100_000)
    assert found.limit_source == "all that the device has"
    assert len(found.probes) <= 6


def test_training_keeps_its_optimizer_state_and_says_how_much(device):
    """AdamW on 250 weights: two moments of 1000 B and a step count of 4 B; the last try failed after `zero_grad`."""
    layer = nn.Linear(250, 1, bias=False)
    optimizer = torch.optim.AdamW(layer.parameters(), foreach=False)

    def step(batch):
        optimizer.zero_grad()
        layer(torch.ones(batch, 250)).mean().backward()
        optimizer.step()

    found = fw.fit(step=step, device=device)
    assert found.held_bytes == 2 * 1000 + 4
    assert found.leaked_bytes == 0
    assert found.verified
    step(found.batch)


def test_a_step_that_leaks_between_calls_is_said(device):
    """Each call leaves 40 B in a list: a warning, the figure, and nothing is called verified."""
    losses = []

    def step(batch):
        losses.append(torch.zeros(10))
        return torch.zeros(batch, 250)

    with pytest.warns(fw.FitWarning, match="every call of the step leaves 40 B behind"):
        found = fw.fit(step=step, device=device)
    assert (found.leaked_bytes, found.verified) == (40, False)
    assert found.held_bytes == 40 * len(losses)
    assert found.batch < 100


def test_kernels_that_take_more_than_their_tensors_are_said_where_only_tensors_count():
    """A convolution copies into layouts of its own on a CPU: the batch that the limit allows takes more than that."""
    layer = nn.Conv2d(3, 20, 3)
    with pytest.warns(fw.FitWarning, match="not what kernels allocate inside, as these do: aten.convolution;"):
        fw.fit(step=lambda batch: layer(torch.ones(batch, 3, 9, 9)), limit_bytes=1 << 18, device="cpu")


def test_a_step_that_needs_no_memory_ends_at_the_maximum(device):
    """Nothing grows: the largest allowed batch ran, and no more is claimed."""
    tried = []
    found = fw.fit(step=tried.append, device=device, grid=Grid(max_batch=4096))
    assert (found.batch, found.capped, found.next.outcome) == (4096, True, "not tested")
    assert len(set(tried)) <= 16


def test_a_limit_below_batch_1_gives_no_batch():
    """One sequence takes 2000 B of 1999."""
    found = fw.fit(step=plain, device=FakeDevice(1_999))
    assert (found.batch, found.verified, found.peak_bytes) == (None, False, None)
    assert (found.next.batch, found.next.outcome) == (1, "oom")
    assert len(found.probes) == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, IndexError])
def test_what_ends_the_search_early_leaves_no_memory(device, kind):
    """Ctrl-C, kept by an interactive interpreter with its traceback; or a mistake in the step: both go on up."""

    def step(batch):
        a = torch.zeros(batch, 250)
        if batch > 7:
            raise kind("now")
        return a + 1

    with pytest.raises(kind) as caught:
        fw.fit(step=step, device=device)
    if kind is KeyboardInterrupt:
        assert caught.value.__traceback__ is not None
    else:
        caught.value.__traceback__ = None
        del caught
    gc.collect()
    assert device.allocated_bytes == 0


def test_on_a_cpu_the_limit_counts_the_tensors_of_the_step():
    """No device of ours: 70 KB hold 35 sequences of 2 x 1000 B, and nothing stays limited."""
    found = fw.fit(step=plain, device="cpu", limit_bytes=70_123)
    assert (found.batch, found.peak_bytes, found.limit_source) == (35, 70_000, "given")
    plain(1000)


@pytest.mark.parametrize("multiple", [8, 3])
def test_only_allowed_batches_are_tried(device, multiple):
    """50 would fit: 48 of the multiples of 8 and of 3."""
    found = fw.fit(step=plain, device=device, grid=Grid(multiple_of=multiple))
    assert found.batch == 48
    assert all(probe.batch % multiple == 0 for probe in found.probes)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model": "gpt-small", "step": plain}, "model and step exclude each other"),
        ({"step": plain, "timeout_s": 3.0}, "timeout_s and step exclude"),
        ({"step": plain, "n_steps": 0, "device": FakeDevice(9)}, "n_steps=0 runs nothing"),
        ({"step": plain, "n_steps": True, "device": FakeDevice(9)}, "n_steps=True runs nothing"),
        ({"step": plain, "limit_bytes": "3MiB"}, "a limit of '3MiB' bytes leaves nothing, or is no whole number"),
        ({"step": plain, "limit_bytes": 1.5}, "a limit of 1.5 bytes"),
        ({"step": plain, "device": None}, "device=None is no device"),
        ({"step": plain, "device": 3, "limit_bytes": 9}, "device=3 is no device"),
        ({"model": "gpt-small", "n_steps": 2}, "n_steps goes with step="),
        ({"model": "gpt-small", "device": FakeDevice(9)}, "a device of your own goes with step="),
        ({}, "there is nothing to fit"),
    ],
)
def test_what_contradicts_itself_is_refused(arguments, said):
    """Before anything runs."""
    with pytest.raises(InputError, match=said):
        fw.fit(**arguments)
