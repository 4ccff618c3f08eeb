"""Why a step is slower than its roofline: parts that add up, operators in the right part, the right matmuls."""

import json
import math
import subprocess
import sys

import jsonschema
import msgspec
import pytest

from bench_ground import SPEC, SPEC_FILE
from flopwatch.compare.gap import GapProbes, group_of_operator, group_of_row, split_gap
from flopwatch.compare.roofline import Roof, roofline
from flopwatch.measure.gap import matmuls_of, shrunk
from flopwatch.model.load import load_spec
from flopwatch.probe.jobs_gap import profile_step
from flopwatch.record import json_schema
from flopwatch.workload import Workload

WORK = Workload(phase="train", batch=3, seq_len=61)
MATMULS = 2 * 12 * 44**2 + 44 * 701  # weights of 2 layers (4 D^2 attention, 8 D^2 FFN) and the head
ROOF = Roof(
    device="x",
    kind="measured",
    flops_per_s={"fp32": 1e9},
    bandwidth_bytes_per_s=1e9,
    peak_source="a test",
    bandwidth_source="a test",
)


def operator(name, self_s, *, in_optimizer=False):
    return {"name": name, "in_optimizer": in_optimizer, "calls": 1, "self_s": self_s}


OPERATORS = [
    operator("aten::addmm", 0.4),
    operator("aten::mm", 0.2),
    operator("aten::_scaled_dot_product_flash_attention_for_cpu_backward", 0.1),
    operator("aten::gelu", 0.05),
    operator("aten::view", 0.01),
    operator("AddmmBackward0", 0.02),
    operator("aten::mul_", 0.03, in_optimizer=True),
]


def split(step_s=1.0, **changes):
    probes = {"profiled_s": 0.9, "operators": OPERATORS, "matmuls_alone_s": 0.55, "empty_step_s": 0.04} | changes
    return split_gap(step_s, roofline(SPEC, WORK, ROOF), GapProbes(**probes))


@pytest.mark.parametrize("step_s", [1.0, 0.7])
def test_the_parts_add_up_to_the_measured_step_and_their_losses_to_the_gap(step_s):
    """What is left over, or was too much, is a part of its own."""
    found = split(step_s)
    parts = {part.name: part for part in found.parts}
    assert parts["matmul"].measured_s == pytest.approx(0.6)
    assert parts["attention"].measured_s == pytest.approx(0.1)
    assert parts["memory"].measured_s == pytest.approx(0.05)
    assert parts["optimizer"].measured_s == pytest.approx(0.03)
    assert parts["overhead"].measured_s == 0.04
    assert parts["data"].measured_s == 0.0
    assert "before the clock starts" in parts["data"].source
    assert parts["unexplained"].measured_s == pytest.approx(step_s - 0.82)
    assert math.fsum(part.measured_s for part in found.parts) == pytest.approx(step_s)
    assert math.fsum(part.gap_s for part in found.parts) == pytest.approx(step_s - found.roofline_s)


def test_the_roofline_of_the_parts_is_that_of_the_step():
    """Matmuls at 1 GFLOP/s: 3 passes of 2 FLOPs a weight and token, bound by compute as far as the weights go."""
    found = split()
    least = {part.name: part.roofline_s for part in found.parts}
    assert math.fsum(least.values()) == pytest.approx(roofline(SPEC, WORK, ROOF).time_s)
    assert least["matmul"] == pytest.approx(3 * 2 * 3 * 61 * MATMULS / 1e9, rel=0.05)
    n_params = 701 * 44 * 2 + 80 * 44 + 2 * (12 * 44**2 + 13 * 44) + 2 * 44
    assert least["optimizer"] == pytest.approx(7 * 4 * n_params / 1e9)
    assert {group_of_row(row) for row in roofline(SPEC, WORK, ROOF).operators} == set(least) - {
        "overhead",
        "data",
        "unexplained",
    }


def test_without_an_empty_step_the_overhead_is_what_the_profiler_saw_between():
    """0.9 s of wall time less 0.81 in operators, and the 0.03 in those that move nothing."""
    found = split(empty_step_s=None)
    overhead = next(part for part in found.parts if part.name == "overhead")
    assert overhead.measured_s == pytest.approx(0.9 - 0.81 + 0.03)


def test_a_rough_split_and_matmuls_that_are_slower_in_the_step_are_said():
    """18 % left over; 0.6 s in the step where they take 0.4 alone."""
    assert "18.0 % less than the step" in split().notes[0]
    assert "matmuls are 50.0 % slower in the step than alone" in split(0.85, matmuls_alone_s=0.4).notes[0]
    assert split(0.85).notes == []


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("aten::mm", "matmul"),
        ("aten::bmm", "attention"),
        ("aten::_softmax", "attention"),
        ("aten::_log_softmax", "memory"),
        ("aten::scaled_dot_product_attention", "overhead"),
        ("aten::native_layer_norm_backward", "memory"),
        ("aten::transpose", "overhead"),
        ("autograd::engine::evaluate_function: MmBackward0", "overhead"),
        ("aten::copy_", "memory"),
    ],
)
def test_each_operator_is_in_its_part(name, group):
    """And everything within the optimizer is the optimizer's, whatever it is."""
    assert group_of_operator(name, in_optimizer=False) == group
    assert group_of_operator(name, in_optimizer=True) == "optimizer"


def test_the_matmuls_that_are_timed_alone_are_those_of_the_step():
    """Training is 3 x 2 FLOPs a weight and token; layers that are recomputed go forward once more."""

    def flops(work):
        return sum(2 * one["rows"] * one["d_in"] * one["d_out"] * one["calls"] for one in matmuls_of(SPEC, work))

    assert flops(WORK) == 3 * 2 * 3 * 61 * MATMULS
    assert flops(msgspec.structs.replace(WORK, n_accumulate=2)) == 2 * 3 * 2 * 3 * 61 * MATMULS
    again = 2 * 3 * 61 * 2 * 12 * 44**2
    assert flops(msgspec.structs.replace(WORK, recompute="full")) == 3 * 2 * 3 * 61 * MATMULS + again
    assert flops(Workload(phase="decode", batch=3, seq_len=61)) == 2 * 3 * MATMULS


def test_a_network_is_shrunk_to_the_same_layers():
    """As many layers and heads, two numbers a head; one with experts is left alone."""
    small = shrunk(SPEC)
    assert (small.n_layers, small.n_heads, small.d_model, small.vocab_size) == (2, 4, 8, 8)
    assert shrunk(load_spec("mixtral-8x7b")) is None


@pytest.mark.slow
def test_the_profiled_step_has_every_matmul_of_the_network():
    """13 linear layers forward (12 with a bias: addmm), two gradients each; the optimizer's work is marked."""
    found = profile_step({"spec": SPEC.to_dict(), "workload": WORK.to_dict()})
    calls = {}
    for row in found["operators"]:
        group = group_of_operator(row["name"], in_optimizer=row["in_optimizer"])
        if row["self_s"] > 0:
            calls[group] = calls.get(group, 0) + row["calls"]
    assert calls["matmul"] == 3 * 13
    assert calls["attention"] == 2 * 2
    assert calls["optimizer"] > 0
    assert 0 < sum(row["self_s"] for row in found["operators"]) <= found["wall_s"]


@pytest.mark.slow
def test_why_is_answered_for_a_real_step(tmp_path, monkeypatch):
    """The table in the text, the parts in the record; they add up to the median step."""
    (tmp_path / "odd.toml").write_text(SPEC_FILE)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "flopwatch", "bench", "odd.toml", "--batch", "3", "--seq", "61", "--why"]
    command += ["--dtype", "fp32", "--store", "runs.sqlite", "-o", "run.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run.json").read_text())
    jsonschema.validate(record, json_schema())
    (found,) = record["results"]
    gap = found["gap"]
    assert sum(part["measured_s"] for part in gap["parts"]) == pytest.approx(found["step_s"]["median"])
    assert "of what is lost" in done.stdout
    refused = subprocess.run([*command, "--compile"], capture_output=True, text=True)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    unknown = subprocess.run([*command, "--precision", "autocast"], capture_output=True, text=True)
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1), unknown.stderr
