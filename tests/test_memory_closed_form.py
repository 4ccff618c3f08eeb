"""The written-out step against published anchors, against a trace of the real network, and against real runs."""

import subprocess
import sys

import msgspec
import pytest
from torch import nn

import memory_networks as networks
from flopwatch.cost.eager.step import write_tape
from flopwatch.cost.eager.tuning import Tuning
from flopwatch.cost.memory import estimate_memory
from flopwatch.errors import SpecError
from flopwatch.model.load import load_spec
from flopwatch.probe.tensor_peak import tensor_peak
from flopwatch.reference.model import build_model
from flopwatch.reference.step import make_step
from flopwatch.trace.memory_view import trace_step
from flopwatch.trace.timeline import tape_of
from flopwatch.workload import Workload

MIB = 1 << 20
# Tracked steps of a GPT of these sizes (torch 2.13): batch 4 x 1024, untied head, cross-entropy, two AdamW steps.
ANCHORS_MIB = {
    ("gpt-small", "fp32", "none"): 6552.71,
    ("gpt-small", "fp32", "full"): 4389.71,
    ("gpt-small", "bf16", "none"): 3277.52,
    ("gpt-small", "bf16", "full"): 2194.89,
    ("gpt-xl", "fp32", "none"): 40373.33,
    ("gpt-xl", "fp32", "full"): 25607.80,
    ("gpt-xl", "bf16", "none"): 20196.08,
    ("gpt-xl", "bf16", "full"): 12803.93,
}


@pytest.mark.parametrize(("model", "dtype", "recompute"), ANCHORS_MIB)
def test_the_peaks_of_known_training_steps_are_met_within_a_tenth_of_a_percent(model, dtype, recompute):
    """Eight tracked runs of small and xl."""
    workload = Workload(batch=4, phase="train", dtype=dtype, recompute=recompute)
    peak_bytes = estimate_memory(load_spec(model), workload).peak_bytes
    assert peak_bytes / MIB == pytest.approx(ANCHORS_MIB[model, dtype, recompute], rel=1e-3)


def test_the_parts_of_a_gpt_at_its_loss_are_those_counted_by_hand():
    """At the loss: weights, two moments of their size, three tensors of logits (log-softmax and two gradients)."""
    spec = networks.small_spec(vocab_size=3001)
    n_weights = sum(p.numel() for p in build_model(spec, device="meta").parameters())
    n_tensors = sum(1 for _ in build_model(spec, device="meta").parameters())
    estimate = estimate_memory(spec, Workload(batch=5, seq_len=17, phase="train"))
    assert estimate.parts["weights"] == 4 * n_weights
    assert estimate.parts["optimizer"] == 8 * n_weights + 4 * n_tensors  # AdamW's step counts
    assert estimate.parts["logits"] == 3 * 4 * 5 * 17 * 3001
    assert estimate.parts["gradients"] == 0
    # Saved by each layer: x, norm, q, k, v, attended, x, norm (8 d), up and gelu (8 d); four statistics and the row
    # sums of six heads; around them ids and positions, the last norm's input, result and statistics; the targets.
    rows, d = 5 * 17, 36
    layer = 4 * rows * (16 * d + 4 + 6)
    ends = 4 * rows * (2 * d + 2) + 8 * rows * 2 + 8 * 17
    assert estimate.parts["activations"] == 2 * layer + ends
    assert estimate.peak.op == "log_softmax_backward"
    assert estimate.peak_bytes == estimate.parts.total


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_decode_step_holds_weights_and_cache(dtype):
    """Llama-3.1-8B: 8.03e9 weights, and 2 x 32 layers x 8 heads x 128 a token; the rest is below half a percent."""
    n_bytes = {"fp32": 4, "bf16": 2}[dtype]
    workload = Workload(batch=16, seq_len=8192, phase="decode", dtype=dtype)
    by_hand = n_bytes * (8_030_261_248 + 16 * 8192 * 2 * 32 * 8 * 128)
    assert estimate_memory(load_spec("llama-3.1-8b"), workload).peak_bytes == pytest.approx(by_hand, rel=0.005)


AGREED = [(name, step) for name in networks.SPECS for step in networks.STEPS]
FAST = {("gpt", "train"), ("grouped", "train"), ("experts", "checkpointed bf16"), ("latent", "decode")}


@pytest.mark.parametrize(
    ("name", "step"),
    [pytest.param(*pair, marks=() if pair in FAST else pytest.mark.slow) for pair in AGREED],
)
def test_the_written_out_step_and_the_trace_agree_to_the_byte(name, step):
    """Without what happens inside kernels, the closed form is the trace of the real network on fake tensors."""
    spec, workload = networks.small_spec(**networks.SPECS[name]), networks.small_workload(step)
    traced = trace_step(spec, workload, hidden_tensors=False)
    assert write_tape(spec, workload, n_steps=2, sees_kernels=False).peak().n_bytes == traced.memory.peak_bytes


REAL = [
    ("gpt", "train", {}),
    ("gpt", "train elementary", {"loss": "sum", "optimizer": "none"}),
    ("gpt", "checkpointed bf16", {}),
    ("grouped", "math attention", {}),
    ("gpt", "math attention", {"phase": "forward", "dtype": "bf16"}),
    ("normed heads", "train", {"n_accumulate": 3, "optimizer": "sgd"}),
    ("tied", "train", {"precision": "autocast", "dtype": "bf16"}),
    ("gpt", "forward elementary", {}),
    ("grouped", "decode", {}),
]


@pytest.mark.parametrize(
    ("name", "step", "fields"),
    [pytest.param(*row, marks=() if row[1] == "forward elementary" else pytest.mark.slow) for row in REAL],
)
def test_the_closed_form_is_within_a_thousandth_of_a_real_run(name, step, fields):
    """The most bytes that torch's allocator reports in two real steps, kernels' temporaries included.

    Sizes are such that the flash kernel's own buffers (some kB a thread) stay below that.
    """
    sizes = {"n_layers": 2, "d_model": 96, "vocab_size": 1501, "max_seq_len": 77}
    spec = networks.small_spec(**(networks.SPECS[name] | sizes))
    workload = Workload(**({"batch": 3, "seq_len": 77} | networks.STEPS[step] | fields))
    real_bytes = networks.real_peak_bytes(spec, workload)
    assert write_tape(spec, workload, n_steps=2).peak().n_bytes == pytest.approx(real_bytes, rel=1e-3)


@pytest.mark.parametrize("step", ["train", "train elementary"])
def test_millions_of_micro_batches_take_what_a_few_take_and_no_time(step):
    """From the second on the gradients are there, and one is like the other: a trace of six says the same."""
    spec = networks.small_spec()
    workload = Workload(**({"batch": 3, "seq_len": 13} | networks.STEPS[step]))
    six = msgspec.structs.replace(workload, n_accumulate=6)
    many = msgspec.structs.replace(workload, n_accumulate=4_000_000)
    traced = tape_of(trace_step(spec, six, hidden_tensors=False)).peak().n_bytes
    assert write_tape(spec, many, n_steps=2, sees_kernels=False).peak().n_bytes == traced


class _Adapted(nn.Module):
    """A linear layer with LoRA beside it, as PEFT runs it."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x)) * 2.0


def _apply_tuning(model: nn.Module, tuning: Tuning) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(name.startswith(f"{module}.") for module in tuning.train_only))
    for part in list(model.layers.modules()) if tuning.lora_rank else []:
        for name, child in list(part.named_children()):
            if type(child) is nn.Linear:
                setattr(part, name, _Adapted(child, tuning.lora_rank))


@pytest.mark.slow
@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize(
    "tuning",
    [Tuning(train_only=("head",)), Tuning(train_only=("layers.1",)), Tuning(lora_rank=5)],
    ids=["head only", "last layer only", "LoRA"],
)
def test_frozen_parameters_and_adapters_take_what_a_real_run_takes(tuning, recompute):
    """Nothing is saved for a weight that is not trained, and only trained ones have gradients and moments."""
    spec = networks.small_spec(d_model=96, vocab_size=211, max_seq_len=77)
    workload = Workload(batch=3, seq_len=77, phase="train", recompute=recompute)
    with tensor_peak() as counted:
        model = build_model(spec, recompute=recompute)
        _apply_tuning(model, tuning)
        step = make_step(model, workload)
        step()
        step()
    assert estimate_memory(spec, workload, tuning=tuning).peak_bytes == pytest.approx(counted.peak_bytes, rel=1e-3)


def test_foreach_adamw_needs_one_more_list_of_all_parameters():
    """On CUDA torch updates all parameters at once: weights, gradients, two moments and the denominators."""
    spec = networks.small_spec(vocab_size=23)
    workload = Workload(batch=1, seq_len=2, phase="train")
    n_weights = sum(p.numel() for p in build_model(spec, device="meta").parameters())
    estimate = estimate_memory(spec, workload, foreach=True)
    assert estimate.peak.op == "foreach_sqrt"
    assert estimate.peak_bytes == pytest.approx(5 * 4 * n_weights, rel=0.01)
    assert estimate.parts["temporary"] == 4 * n_weights


def test_8_bit_moments_take_a_byte_each_and_a_scale_for_256():
    """bitsandbytes: two bytes a weight and two fp32 scales a block; below 4096 elements fp32."""
    spec = networks.small_spec(d_model=96)
    estimate = estimate_memory(spec, Workload(batch=1, phase="train", seq_len=3), tuning=Tuning(adamw="8-bit"))
    sizes = [p.numel() for p in build_model(spec, device="meta").parameters()]
    by_hand = sum(8 * n if n < 4096 else 2 * n + 8 * -(-n // 256) for n in sizes)
    assert estimate.parts["optimizer"] == by_hand


def test_weights_in_fp8_take_a_byte_and_activations_stay_bf16():
    """A forward with small weights: one byte each; logits two bytes each."""
    spec = networks.small_spec()
    n_weights = sum(p.numel() for p in build_model(spec, device="meta").parameters())
    estimate = estimate_memory(spec, Workload(batch=5, seq_len=17, dtype="fp8"))
    assert estimate.parts["weights"] == n_weights
    assert estimate.parts["logits"] in {0, 2 * 5 * 17 * 101}


@pytest.mark.parametrize(
    ("fields", "workload", "tuning", "message"),
    [
        ({}, {"phase": "train", "dtype": "int8"}, None, "dtype=int8 in phase train has no one meaning"),
        ({"n_mtp_layers": 1}, {"phase": "train"}, None, "n_mtp_layers=1 is not known in phase train"),
        ({}, {"phase": "train"}, Tuning(train_only=("heads",)), "train_only=heads is no module"),
    ],
)
def test_what_cannot_be_estimated_is_refused(fields, workload, tuning, message):
    """No number where none is known."""
    with pytest.raises(SpecError, match=message):
        estimate_memory(networks.small_spec(**fields), Workload(batch=1, seq_len=3, **workload), tuning=tuning)


def test_contradicting_tunings_are_refused():
    """With adapters everything else is frozen."""
    with pytest.raises(SpecError, match="lora_rank=4 contradicts train_only=head"):
        Tuning(lora_rank=4, train_only=("head",))


def test_estimating_loads_no_torch():
    """The closed form works on a machine without torch."""
    code = (
        "import sys; from flopwatch.api.memory import memory; from flopwatch.workload import Workload; "
        "memory('gpt-small', Workload(phase='train', dtype='bf16', batch=2), device='A100 SXM4 40GB'); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_one_step_in_steady_state_has_the_peak_of_two():
    """Moments made beforehand stand for a first step."""
    spec, workload = networks.small_spec(), networks.small_workload("train")
    assert write_tape(spec, workload).peak().n_bytes == write_tape(spec, workload, n_steps=2).peak().n_bytes
