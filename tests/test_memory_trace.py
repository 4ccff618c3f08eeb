"""Memory from a run of the real step on fake tensors: against MemTracker, against real runs, replayed for any batch."""

import subprocess
import sys

import msgspec
import pytest

import memory_networks as networks
from flopwatch.cost.eager.tape import Tape
from flopwatch.cost.memory import step_tape
from flopwatch.trace.memory_view import memory_tape, trace_memory, trace_step
from flopwatch.trace.replay import AnyBatch, BatchDependentError

BATCHES = (1, 2, 3, 5, 8, 16, 37, 101, 256, 389)
FAST_STEPS = {"train"}


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(name, marks=() if name in FAST_STEPS else pytest.mark.slow)
        for name in ("train", "train elementary", "checkpointed bf16", "math attention", "forward")
    ],
)
def test_the_traced_peak_is_the_one_that_memtracker_sees_to_the_byte(step):
    """torch's own tracker on the same steps, on fake tensors."""
    spec, workload = networks.small_spec(d_model=96, vocab_size=211), networks.small_workload(step)
    traced = trace_step(spec, workload, hidden_tensors=False)
    assert traced.memory.peak_bytes == networks.memtracker_peak_bytes(spec, workload)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt", "grouped", "experts", "latent"])
def test_other_networks_are_traced_as_memtracker_sees_them(name):
    """Grouped heads, gates, experts and latent attention."""
    spec, workload = networks.small_spec(**networks.SPECS[name]), networks.small_workload("train")
    traced = trace_step(spec, workload, hidden_tensors=False)
    assert traced.memory.peak_bytes == networks.memtracker_peak_bytes(spec, workload)


@pytest.mark.slow
def test_a_matmul_copies_an_operand_without_strides_and_the_trace_shows_it():
    """The gradient of a sum is one number, expanded: the real run copies it, and so does the trace."""
    spec = networks.small_spec(d_model=96, vocab_size=5003, max_seq_len=77)
    workload = networks.small_workload("train", seq_len=77, batch=3, loss="sum", optimizer="none")
    real_bytes = networks.real_peak_bytes(spec, workload)
    without = trace_step(spec, workload, hidden_tensors=False).memory.peak_bytes
    assert without < 0.97 * real_bytes
    assert memory_tape(spec, workload).peak().n_bytes == pytest.approx(real_bytes, rel=1e-3)


def test_the_parts_of_a_trace_are_those_of_the_closed_form():
    """What marks a tensor as weight, moment or logits in a trace agrees with what the written-out step knows."""
    spec, workload = networks.small_spec(vocab_size=3001), networks.small_workload("train")
    traced = trace_memory(memory_tape(spec, workload)).parts
    written = step_tape(spec, workload).peak().parts
    assert (traced["weights"], traced["gradients"]) == (written["weights"], written["gradients"])
    assert traced["logits"] == written["logits"] + 4  # the loss itself
    assert traced["optimizer"] + traced["activations"] == pytest.approx(
        written["optimizer"] + written["activations"], rel=1e-3
    )


def test_the_peak_has_an_operator_and_a_phase():
    """A user reads `2 x gradients of the logits`, not a sum."""
    peak = trace_memory(memory_tape(networks.small_spec(vocab_size=3001), networks.small_workload("train"))).peak
    assert peak.op == "aten._log_softmax_backward_data"
    assert peak.phase == "backward"
    assert [block.part for block in peak.largest[:3]] == ["logits"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("ops", ["fused", "elementary"])
def test_replay_from_two_batches_is_a_direct_run_at_any_other(recompute, ops):
    """Ten batches from 1 to 389, byte for byte."""
    spec = networks.small_spec()
    workload = networks.small_workload("train", recompute=recompute, ops=ops)

    def run(batch):
        return memory_tape(spec, msgspec.structs.replace(workload, batch=batch))

    lines = AnyBatch(run)
    assert [lines.peak_bytes(batch) for batch in BATCHES] == [run(batch).peak().n_bytes for batch in BATCHES]


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_replay_of_the_written_out_step_is_the_step_at_any_batch(recompute):
    """The same for the closed form of gpt-like networks, with the whole grid."""
    spec = networks.small_spec(n_layers=3, vocab_size=23)
    workload = networks.small_workload("train", recompute=recompute)

    def write(batch):
        return step_tape(spec, msgspec.structs.replace(workload, batch=batch), n_steps=2)

    lines = AnyBatch(write)
    assert [lines.peak_bytes(batch) for batch in BATCHES] == [write(batch).peak().n_bytes for batch in BATCHES]


def test_a_checkpointed_peak_is_no_line_in_the_batch():
    """A line through batches 1 and 2 is too low at 16: why events are replayed, not peaks."""
    spec = networks.small_spec(n_layers=3, vocab_size=23, d_model=96)
    workload = networks.small_workload("train", recompute="full")
    lines = AnyBatch(lambda batch: step_tape(spec, msgspec.structs.replace(workload, batch=batch)))
    one, two = lines.peak_bytes(1), lines.peak_bytes(2)
    assert lines.peak_bytes(16) > 1.05 * (one + 15 * (two - one))


def _tape(*sizes):
    tape = Tape()
    numbers = [tape.allocate(size) for size in sizes]
    for number in numbers:
        tape.release(number)
    tape.close()
    return tape


def test_a_step_that_allocates_more_often_in_a_larger_batch_is_found_out():
    """A trace that depends on the batch has no lines."""
    with pytest.raises(BatchDependentError, match="allocates differently at batches 2 and 3"):
        AnyBatch(lambda batch: _tape(*[10] * batch))


def test_sizes_that_are_no_lines_are_found_out_by_a_third_run():
    """A quadratic size passes through two points; the third tells."""
    lines = AnyBatch(lambda batch: _tape(batch * batch))
    with pytest.raises(BatchDependentError, match="at batch 7 allocates something else"):
        lines.check(7)


def test_uneven_experts_are_no_lines_and_are_said_to_be_none():
    """Rows dealt out to five experts are not proportional to the batch."""
    spec, workload = networks.small_spec(**networks.SPECS["experts"]), networks.small_workload("train", seq_len=13)
    lines = AnyBatch(lambda batch: step_tape(spec, msgspec.structs.replace(workload, batch=batch)))
    with pytest.raises(BatchDependentError):
        lines.check(7)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
def test_xl_is_traced_in_less_than_half_a_gigabyte():
    """A network of 1.6e9 weights without any of them: the anchor's peak, 40373.33 MiB, in 0.5 GB.

    By VmHWM: ru_maxrss of a child starts at its parent's.
    """
    code = (
        "from pathlib import Path; from flopwatch.model.load import load_spec; "
        "from flopwatch.workload import Workload; "
        "from flopwatch.trace.memory_view import memory_tape; "
        "peak = memory_tape(load_spec('gpt-xl'), Workload(batch=4, phase='train')).peak().n_bytes; "
        "lines = Path('/proc/self/status').read_text().splitlines(); "
        "print(peak / 2**20, *[int(line.split()[1]) * 1024 for line in lines if line.startswith('VmHWM')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak_mib, resident_bytes = map(float, done.stdout.split())
    assert peak_mib == pytest.approx(40373.33, rel=0.01)
    assert resident_bytes < 0.5e9
