"""Budgets on FLOPs, memory and parameters in a user's own tests."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

import flopwatch as fw
from flopwatch.errors import InputError
from flopwatch.testing import Budget


def make_network():
    """5 -> 7 -> 3: 35 + 21 weights in matmuls, 10 biases."""
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


ROWS = torch.ones(4, 5)


def test_flops_of_a_module_are_those_of_its_forward_and_may_be_just_the_budget():
    """4 rows x 2 x 56 weights."""
    assert Budget().assert_flops(make_network(), (ROWS,), max_flops=448) == 448


def test_flops_of_training_hold_the_backward():
    """Forward, the gradients of both weights, and of the second one's input: 448 + 448 + 4 x 2 x 21."""
    assert Budget().assert_flops(make_network(), (ROWS,), phase="train", max_flops="1.1k") == 448 + 448 + 168


def test_flops_of_a_step_are_those_of_one_call():
    """Any callable; its own tensors, here without data."""
    with torch.device("meta"):
        network, rows = make_network(), torch.ones(4, 5)
    assert Budget().assert_flops(lambda: network(rows).sum().backward(), max_flops=2000) == 448 + 448 + 168


def test_a_failure_names_what_is_too_much_and_where_it_is():
    """448 FLOPs against 400: 12 % more; the first layer has 280 of them."""
    with pytest.raises(AssertionError) as caught:
        Budget().assert_flops(make_network(), (ROWS,), max_flops=400)
    assert str(caught.value) == (
        "flops of Sequential: 448.0 FLOPs (448), 12.0 % above the budget of 400.0 FLOPs;"
        " largest parts: 0 280.0 FLOPs, 2 168.0 FLOPs"
    )


def test_a_spec_is_counted_in_closed_form():
    """GPT-2 small of the notebook, batch 2 x 1024, all of the attention: 583.3 GFLOPs."""
    budget = Budget()
    workload = fw.Workload(batch=2, seq_len=1024)
    assert budget.assert_flops("gpt-small", workload=workload, max_flops="584 GFLOPs") == 583_296_614_400
    with pytest.raises(AssertionError, match=r"flops of gpt-small: 583.3 GFLOPs .* largest parts: head 158.1 GFLOPs"):
        budget.assert_flops("gpt-small", workload=workload, max_flops="0.5T")


def test_the_peak_of_a_module_holds_its_weights_inputs_and_activations():
    """66 parameters, 20 inputs, 28 hidden values of which the ReLU makes as many again: all of 4 bytes."""
    found = Budget().assert_peak_bytes(make_network(), (ROWS,), max_bytes="1KiB")
    assert found == 4 * (66 + 20 + 28 + 28)


def test_the_peak_of_a_step_holds_the_optimizers_state_of_the_step_before():
    """AdamW keeps two moments a weight: more than SGD's peak by those of 66 parameters, and two counters of steps."""
    peaks = {}
    for kind in (torch.optim.SGD, torch.optim.AdamW):
        with torch.device("meta"):
            network, rows = make_network(), torch.ones(400, 5)  # so large that the backward is the peak
        optimizer = kind(network.parameters())

        def step(network=network, rows=rows, optimizer=optimizer):
            network(rows).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        peaks[kind] = Budget().assert_peak_bytes(step, max_bytes="1MiB")
    moments = 2 * 66 * 4
    counters = 4 * 4
    assert peaks[torch.optim.AdamW] - peaks[torch.optim.SGD] == moments + counters


def test_the_peak_of_a_spec_is_the_predicted_one():
    """What fw.memory says, and its parts in the failure."""
    workload = fw.Workload(batch=1, seq_len=1024, phase="train")
    with pytest.raises(AssertionError, match=r"above the budget of 1.000 GiB; largest parts: optimizer 1.215 GiB"):
        Budget().assert_peak_bytes("gpt-small", workload=workload, max_bytes="1GiB")


def test_parameters_are_counted_once_when_they_are_shared():
    """A head tied to its embedding: 7 x 5."""
    network = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 7, bias=False))
    network[1].weight = network[0].weight
    assert Budget().assert_params(network, max_params=35) == 35
    assert Budget().assert_params("gpt2", max_params="125M") == 124_439_808
    with pytest.raises(AssertionError, match="params of Sequential: 35 "):
        Budget().assert_params(network, max_params=34)


def test_a_count_that_is_not_complete_keeps_no_budget():
    """A matmul that no formula knows is no zero."""

    @torch.library.custom_op("budgets::matmul", mutates_args=())
    def matmul(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return left @ right

    @matmul.register_fake
    def _(left, right):
        return left.new_empty(left.shape[0], right.shape[1])

    with pytest.raises(fw.FlopwatchError, match="looks like a matmul"):
        Budget().assert_flops(lambda: matmul(torch.ones(40, 50), torch.ones(50, 60)), max_flops="1T")


@pytest.mark.parametrize(
    ("subject", "options", "text"),
    [
        ("gpt-small", {}, "give workload="),
        ("gpt-small", {"workload": fw.Workload(), "phase": "train"}, "give workload="),
        (make_network(), {"workload": fw.Workload()}, "give the args of its forward"),
        (3, {}, "int has no cost"),
        (print, {"args": (3,)}, "a step takes no arguments"),
        (print, {"max_flops": -1}, "max_flops=-1 is no budget"),
        (print, {"max_flops": float("nan")}, "is no budget"),
        (print, {"max_flops": "many"}, "is not a count"),
    ],
)
def test_what_makes_no_sense_is_refused(subject, options, text):
    """As a usage error, which no test takes for a kept budget."""
    with pytest.raises(InputError, match=text):
        Budget().assert_flops(subject, **{"max_flops": "1T", **options})


@pytest.mark.slow
def test_the_fixture_in_a_users_test_fails_with_the_text_and_leaves_the_figure_in_the_report(tmp_path):
    """A project of its own: one line in conftest.py, two tests, one over budget."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["flopwatch.testing"]\n')
    (tmp_path / "test_costs.py").write_text(
        textwrap.dedent(
            """
            import flopwatch as fw

            WORK = fw.Workload(batch=2, seq_len=1024)

            def test_kept(flopwatch_budget):
                flopwatch_budget.assert_flops("gpt-small", workload=WORK, max_flops="600G")

            def test_exceeded(flopwatch_budget):
                flopwatch_budget.assert_params("gpt-small", max_params="100M")
            """
        )
    )
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--junitxml", "junit.xml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout
    assert "params of gpt-small: 163.0M (163,037,184), 63.0 % above the budget of 100.0M" in done.stdout
    assert "budgets.py" not in done.stdout  # the traceback ends in the user's line
    report = (tmp_path / "junit.xml").read_text()
    assert 'name="flopwatch_flops" value="583296614400"' in report
