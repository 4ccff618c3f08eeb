"""What a loop or its user may hand a meter that is no plain whole number: counted right, or refused in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import flopwatch as fw
from meter_clock import LINEAR, PAIR, SPEC, Clock, make_meter


@pytest.mark.parametrize(
    "lengths",
    [
        (length for length in (3, 7)),
        iter([3, 7]),
        np.array([3, 7]),
        [np.int64(3), np.uint8(7)],
        torch.tensor([3, 7]).tolist(),
    ],
    ids=["generator", "iterator", "array", "numpy scalars", "list"],
)
def test_lengths_of_any_kind_are_tokens_and_flops_alike(lengths):
    """10 tokens; 9 + 49 pairs: a generator can be read once only, and the figures are plain numbers for any logger."""
    clock = Clock()
    meter = make_meter(clock)
    clock.pass_s(1)
    found = meter.step(lengths=lengths)
    assert found["perf/tokens_per_s"] == 10
    assert found["perf/mfu"] == found["perf/hfu"] == pytest.approx((10 * LINEAR + 58 * PAIR) / 1e9)
    assert {type(value) for value in found.values()} == {float}
    assert json.dumps(found)


def test_numpys_small_lengths_do_not_overflow_in_their_sum():
    """4 x 99 tokens are 396, more than a byte holds."""
    clock = Clock()
    meter = make_meter(clock)
    clock.pass_s(1)
    assert meter.step(lengths=list(np.full(4, 99, dtype=np.uint8)))["perf/tokens_per_s"] == 396


@pytest.mark.parametrize(
    ("work", "text"),
    [
        ({"lengths": 7}, "lengths of type int are no list of lengths"),
        ({"lengths": "77"}, "lengths of type str are no list"),
        ({"lengths": {7: 1}}, "lengths of type dict are no list"),
        ({"lengths": [[3, 7]]}, "one flat list"),
        ({"lengths": np.array([[3, 7]])}, "one flat list"),
        ({"lengths": [3, 101]}, "101 tokens is longer than the model's context, 100"),
        ({"lengths": [3], "padded_to": 101}, "101 tokens is longer than the model's context, 100"),
        ({"tokens": 202, "sequences": 2}, "101 tokens is longer than the model's context, 100"),
        ({"lengths": [3, 0]}, "leave out rows without tokens"),
    ],
)
def test_lengths_that_cannot_be_are_refused(work, text):
    """In one line, and without the tokens of a sequence that the model cannot have seen."""
    with pytest.raises(fw.FlopwatchError, match=text):
        make_meter(Clock()).step(**work)


def test_padding_told_without_lengths_is_refused_after_an_add_too():
    """`padded_to` says nothing of what was added before: it is not ignored."""
    meter = make_meter(Clock())
    meter.add(tokens=5)
    with pytest.raises(fw.FlopwatchError, match="padded_to=64 without lengths"):
        meter.step(padded_to=64)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"window_steps": 1.5}, "window_steps=1.5"),
        ({"window_steps": "3"}, "window_steps='3'"),
        ({"warmup_steps": 1.5}, "warmup_steps=1.5"),
        ({"warmup_steps": float("nan")}, "warmup_steps=nan"),
        ({"n_devices": "2"}, "n_devices='2'"),
        ({"n_devices": 2.0}, "n_devices=2.0"),
        ({"ranks_per_replica": 1.0}, "ranks_per_replica=1.0"),
        ({"peak_flops_per_s": "312T"}, "peak_flops_per_s=312T"),
        ({"peak_flops_per_s": torch.tensor(3e14)}, "peak_flops_per_s"),
    ],
)
def test_options_of_another_kind_are_refused_in_one_line(options, text):
    """No TypeError from deep inside, and no half a step."""
    with pytest.raises(fw.FlopwatchError, match=text):
        make_meter(Clock(), **options)


@pytest.mark.parametrize("number", ["1e9", True, torch.tensor(1e9)])
def test_flops_that_are_no_number_are_refused(number):
    """A tensor would make every figure a tensor, on its device."""
    with pytest.raises(fw.FlopwatchError, match="flops_per_token"):
        fw.Meter(flops_per_token=number, seq_len=5, peak_flops_per_s=1e12)


@pytest.mark.parametrize("options", [{"recompute": "full"}, {"uses_flash": True}, {"convention": "palm"}])
def test_how_a_model_is_counted_is_refused_without_one(options):
    """No option is accepted and ignored."""
    with pytest.raises(fw.FlopwatchError, match="say how a model is counted"):
        fw.Meter(peak_flops_per_s=1e12, **options)


def test_a_module_is_refused_with_the_way_to_its_flops():
    """A module has no closed form; its trace has the number."""
    with pytest.raises(fw.FlopwatchError, match=r"a Linear has no closed form; .*fw.trace\(step\).total / tokens"):
        fw.Meter(nn.Linear(3, 4), seq_len=5)


def test_a_path_and_a_torch_device_are_what_their_text_is(tmp_path: Path):
    """pathlib's and torch's own objects for what is else a string."""
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"name": "t", "n_layers": 2, "d_model": 6, "n_heads": 3, "vocab_size": 7}))
    meter = fw.Meter(path, seq_len=5, device=torch.device("cpu"))
    assert meter.cost.model_per_token == fw.Meter(SPEC, seq_len=5).cost.model_per_token
    assert "CPU" in meter.why_no_mfu


def test_a_start_within_a_pause_leaves_the_rest_of_it_a_pause():
    """5 s of an evaluation before the start are forgotten, 3 s after it are a pause, and the clock went nowhere."""
    clock = Clock()
    meter = make_meter(clock)
    with meter.pause("eval"):
        clock.pass_s(5)
        meter.start()
        clock.pass_s(3)
    clock.pass_s(1)
    assert meter.step(tokens=35)["perf/step_s"] == pytest.approx(1)
    assert meter.summary()["perf/paused_s/eval"] == pytest.approx(3)
    assert meter.notes == []


def test_a_world_size_of_thousands_of_digits_is_refused_in_short(monkeypatch):
    """Python would not even read it."""
    monkeypatch.setenv("WORLD_SIZE", "1" * 5000)
    with pytest.raises(fw.FlopwatchError, match="WORLD_SIZE") as seen:
        make_meter(Clock())
    assert len(str(seen.value)) < 200
