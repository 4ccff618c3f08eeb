"""The roofline of the user's own code and why a step of it is slow: worked by hand, and from a real run."""

import json
import subprocess
import sys

import jsonschema
import msgspec
import pytest

import flopwatch as fw
from flopwatch.compare.roofline import Roof
from flopwatch.errors import InputError
from flopwatch.record import json_schema
from flopwatch.workload import Workload

CODE = """
import torch
from torch import nn


def mlp(batch):
    return nn.Sequential(nn.Linear(7, 29), nn.ReLU(), nn.Linear(29, 3)), torch.randn(batch, 7)


class Turned(nn.Linear):
    def forward(self, x):
        angles = torch.ones(11, 1) @ torch.ones(1, 13)  # fp32 whatever the weights are, as rotary positions have it
        return super().forward(x) * angles.sum().to(x.dtype)


def turned(batch):
    return Turned(23, 29, dtype=torch.bfloat16), torch.randn(batch, 23, dtype=torch.bfloat16)


def blank(batch):
    return nn.ReLU(), torch.randn(batch, 23)


def pictures(batch):
    layers = [nn.Conv2d(3, 48, 3), nn.ReLU(), nn.Conv2d(48, 40, 3), nn.Flatten(), nn.Linear(40 * 20 * 20, 11)]
    return nn.Sequential(*layers), torch.randn(batch, 3, 24, 24)
"""
BATCH = 5


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the code, worked in."""
    (tmp_path / "my_nets.py").write_text(CODE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOPWATCH_STORE", str(tmp_path / "runs.sqlite"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def _roof(*, flops_per_s, bandwidth_bytes_per_s):
    return Roof(
        device="by hand",
        kind="user",
        flops_per_s={"fp32": flops_per_s},
        bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        peak_source="by hand",
        bandwidth_source="by hand",
    )


def _work(**fields):
    return Workload(batch=BATCH, seq_len=1, dtype="fp32", **fields)


@pytest.mark.usefixtures("here")
def test_without_a_memory_wall_the_least_time_is_flops_over_peak():
    """Forward 2B(7 x 29 + 29 x 3), both weights' gradients as much, the second layer's input once more; 1 GFLOP/s."""
    roof = _roof(flops_per_s=1e9, bandwidth_bytes_per_s=1e30)
    forward, inner = 2 * BATCH * (7 * 29 + 29 * 3), 2 * BATCH * 29 * 3
    found = fw.roofline("my_nets:mlp", _work(phase="train"), device=roof)
    assert found.time_s == pytest.approx((2 * forward + inner) / 1e9)
    assert (found.model_flops, found.highest_mfu) == (2 * forward + inner, pytest.approx(1))
    assert (found.source, found.batch, found.compute_bound_batch) == ("trace", BATCH, None)
    assert found.details["compute_bound_reason"]
    alone = fw.roofline("my_nets:mlp", _work(phase="forward"), device=roof)
    assert alone.time_s == pytest.approx(forward / 1e9)


@pytest.mark.usefixtures("here")
def test_the_step_is_one_whose_optimizer_has_its_state_already():
    """AdamW, one tensor at a time: one square root for each of the four tensors, and no state made of zeros."""
    roof = _roof(flops_per_s=1e9, bandwidth_bytes_per_s=1e9)
    found = fw.roofline("my_nets:mlp", _work(phase="train", adamw="single"), device=roof)
    calls = {row.operator: row.calls for row in found.operators if row.stage == "optimizer"}
    assert calls["sqrt"] == 4
    assert "zeros_like" not in calls
    relu = next(row for row in found.operators if (row.operator, row.stage) == ("relu", "forward"))
    assert relu.time_s == pytest.approx(2 * BATCH * 29 * 4 / 1e9)  # read once, written once, four bytes each


@pytest.mark.usefixtures("here")
def test_matmuls_of_another_dtype_stand_at_the_weights_peak_and_that_is_said():
    """2 x 11 x 13 FLOPs of fp32 beside 2 x 5 x 23 x 29 of bf16: 4.1 %."""
    roof = msgspec.structs.replace(_roof(flops_per_s=1e9, bandwidth_bytes_per_s=1e30), flops_per_s={"bf16": 1e9})
    work = Workload(batch=BATCH, seq_len=1, dtype="bf16", phase="forward")
    found = fw.roofline("my_nets:turned", work, device=roof)
    assert found.time_s == pytest.approx((2 * 11 * 13 + 2 * BATCH * 23 * 29) / 1e9)
    assert "4.1 % of the FLOPs are fp32 and stand at the peak of bf16" in found.assumptions


@pytest.mark.usefixtures("here")
def test_what_has_no_roofline_is_refused():
    """Several dtypes in one step, no work at all, and a dtype without a peak."""
    roof = _roof(flops_per_s=1e9, bandwidth_bytes_per_s=1e9)
    with pytest.raises(InputError, match="autocast has no roofline"):
        fw.roofline("my_nets:mlp", Workload(batch=BATCH, seq_len=1, dtype="bf16", precision="autocast"), device=roof)
    cached = msgspec.structs.replace(roof, cache_bytes=1 << 20)
    with pytest.raises(InputError, match="nothing in a step of my_nets:blank takes time"):
        fw.roofline("my_nets:blank", _work(phase="forward"), device=cached)
    with pytest.raises(InputError, match="no bf16 peak of by hand"):
        fw.roofline("my_nets:mlp", Workload(batch=BATCH, seq_len=1, dtype="bf16"), device=roof)


@pytest.mark.slow
def test_why_a_network_of_convolutions_is_slow(here):
    """Its convolutions are matmuls on both sides; the parts add up to the median step."""
    command = [sys.executable, "-m", "flopwatch", "bench", "my_nets:pictures", "--batch", "4", "--phase", "train"]
    done = subprocess.run([*command, "--why", "-o", "run.json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((here / "run.json").read_text(encoding="utf-8"))
    jsonschema.validate(record, json_schema())
    (found,) = record["results"]
    parts = {part["name"]: part for part in found["gap"]["parts"]}
    assert sum(part["measured_s"] for part in parts.values()) == pytest.approx(found["step_s"]["median"])
    assert 0 < parts["matmul"]["roofline_s"] < 1.25 * parts["matmul"]["measured_s"]  # and by noise only above it
    assert parts["matmul"]["measured_s"] > parts["memory"]["measured_s"] > 0
    assert "attention" not in parts
    refused = subprocess.run([*command, "--why", "--precision", "autocast"], capture_output=True, text=True)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_the_command_takes_code_of_ones_own():
    """On a card, from its datasheet: 19.5 TFLOP/s of fp32."""
    command = [sys.executable, "-m", "flopwatch", "roofline", "my_nets:mlp", "--batch", "5", "--phase", "forward"]
    done = subprocess.run([*command, "--device", "A100 SXM4 80GB", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["results"]
    assert (found["dtype"], found["peak_flops_per_s"], found["source"]) == ("fp32", 19.5e12, "trace")
    assert found["model_flops"] == 2 * 5 * (7 * 29 + 29 * 3)
    drawn = subprocess.run([*command, "--device", "A100 SXM4 80GB"], capture_output=True, text=True)
    assert "not known of your own code, which is traced at this batch" in " ".join(drawn.stdout.split())
