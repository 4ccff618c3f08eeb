"""--adamw: the update that runs is the one that is predicted, timed and kept."""

import pytest
import torch

from flopwatch.cli import run
from flopwatch.compare.choices import choices_for
from flopwatch.cost.memory import estimate_memory
from flopwatch.errors import SpecError
from flopwatch.model.spec import ModelSpec
from flopwatch.probe.tensor_peak import tensor_peak
from flopwatch.reference.step import build_step, make_optimizer
from flopwatch.trace.replay import usage_at
from flopwatch.workload import Workload

# One sequence of few tokens through wide layers: the optimizer is the peak of the step.
SPEC = ModelSpec(name="wide", n_layers=3, d_model=88, n_heads=4, vocab_size=997, max_seq_len=16)


def work(adamw):
    return Workload(phase="train", seq_len=5, adamw=adamw)


@pytest.mark.parametrize("adamw", ["auto", "single", "foreach", "fused"])
def test_the_predicted_peak_of_each_update_is_that_of_the_real_step(adamw):
    """Against the memory events of torch's profiler; what kernels take inside is the difference."""
    with tensor_peak() as counted:
        step = build_step(SPEC, work(adamw))
        step()
        step()
    assert estimate_memory(SPEC, work(adamw)).peak_bytes == pytest.approx(counted.peak_bytes, rel=0.01)
    del step


def test_all_at_once_takes_a_list_of_all_parameters_more_than_one_kernel():
    """The denominators of all parameters: 4 bytes each in fp32."""
    n_params = 2 * 997 * 88 + 16 * 88 + 3 * (12 * 88**2 + 13 * 88) + 2 * 88
    peaks = {kind: estimate_memory(SPEC, work(kind)).peak_bytes for kind in ("single", "foreach", "fused")}
    assert peaks["foreach"] - peaks["fused"] == pytest.approx(4 * n_params, abs=4096)  # its peak is in backward
    assert peaks["fused"] <= peaks["single"] < peaks["foreach"]
    reserved = {kind: usage_at(SPEC, work(kind))(1, None).reserved_bytes for kind in ("auto", "foreach", "fused")}
    assert reserved["fused"] < reserved["foreach"] == reserved["auto"]  # torch's choice on a GPU


def test_torch_is_told_which_update_to_run():
    """The optimizer's own settings; auto leaves the choice to torch."""
    model = torch.nn.Linear(7, 3)
    for adamw, settings in {
        "auto": (None, None),
        "single": (False, False),
        "foreach": (True, False),
        "fused": (False, True),
    }.items():
        (group,) = make_optimizer(model, work(adamw)).param_groups
        assert (group["foreach"], group["fused"]) == settings


def test_the_fused_update_is_a_choice_of_explore():
    """And from the fused one the way back."""
    found = {(choice.name, choice.value) for choice in choices_for(work("auto"), kind="cpu", compiled=False)}
    assert ("optimizer", "adamw fused") in found
    back = {(choice.name, choice.value) for choice in choices_for(work("fused"), kind="cpu", compiled=False)}
    assert ("optimizer", "adamw") in back
    sgd = Workload(phase="train", seq_len=5, optimizer="sgd")
    assert "optimizer" not in {choice.name for choice in choices_for(sgd, kind="cpu", compiled=False)}


def test_another_optimizer_has_no_such_update(capsys):
    """Exit code 2 in one line: nothing is left out in silence."""
    with pytest.raises(SpecError, match="adamw=fused contradicts optimizer=sgd"):
        Workload(phase="train", optimizer="sgd", adamw="fused")
    for options, says in (
        (["--optimizer", "sgd", "--adamw", "fused"], "--adamw fused contradicts --optimizer sgd"),
        (["--phase", "forward", "--adamw", "fused"], "--adamw fused has no meaning in phase forward"),
        (["--adamw", "8-bit"], "8-bit"),
    ):
        assert run(["bench", "gpt-small", *options]) == 2
        err = capsys.readouterr().err
        assert says in err
        assert err.count("\n") == 1
