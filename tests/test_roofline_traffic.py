"""Traffic and FLOPs of each operator, against the FLOPs' own closed form, a trace, and arithmetic by hand."""

import pytest

from flopwatch.cost.flops import forward_flops, step_flops
from flopwatch.cost.traffic import linears, step_ops
from flopwatch.errors import SpecError
from flopwatch.model.load import load_spec, preset_names
from flopwatch.model.params import count_params
from flopwatch.model.spec import MLASpec, ModelSpec, MoESpec
from flopwatch.workload import Workload

PLAIN = ModelSpec(
    name="odd", n_layers=3, d_model=40, n_heads=5, d_ff=136, vocab_size=211, max_seq_len=64, bias=False, norm="rmsnorm",
    positions="rope",
)  # fmt: skip
SPECS = [
    PLAIN,
    ModelSpec(name="gqa", n_layers=2, d_model=48, n_heads=6, n_kv_heads=2, ffn="swiglu", d_ff=104, vocab_size=211),
    ModelSpec(
        name="moe", n_layers=5, d_model=48, n_heads=6, vocab_size=211, ffn="swiglu", d_ff=104,
        moe=MoESpec(n_experts=7, experts_per_token=2, d_ff_expert=24, n_shared_experts=1, first_dense_layers=2),
    ),
    ModelSpec(
        name="mla", n_layers=2, d_model=48, n_heads=3, vocab_size=211,
        mla=MLASpec(kv_rank=13, d_nope=11, d_rope=6, d_value=9, q_rank=17),
    ),
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("phase", ["forward", "train", "prefill", "decode"])
def test_flops_of_the_operators_sum_to_the_closed_form(spec, phase):
    """With all scores computed, the operators do exactly the model FLOPs of the step."""
    work = Workload(batch=3, seq_len=17, phase=phase, attention="math", n_accumulate=2 if phase == "train" else 1)
    assert sum(op.flops for op in step_ops(spec, work)) == step_flops(spec, work).model_flops


def test_flops_of_every_preset_sum_to_the_closed_form():
    """Real shapes: gates, windows, experts, latent attention."""
    for name in preset_names():
        spec = load_spec(name)
        if spec.n_mtp_layers:
            continue
        work = Workload(batch=2, seq_len=64, phase="forward", attention="math")
        assert sum(op.flops for op in step_ops(spec, work)) == forward_flops(spec, work).total, name


def test_linear_layers_move_what_a_trace_sees_them_move():
    """Forward and backward of the real network, no biases: `mm` reads two operands and writes one, to the byte."""
    torch = pytest.importorskip("torch")
    from flopwatch.reference.model import build_model
    from flopwatch.reference.step import make_step
    from flopwatch.trace.api import trace

    assert torch.__version__
    work = Workload(batch=3, seq_len=17, phase="train")
    module = build_model(PLAIN, device="meta")
    made = trace(make_step(module, work), model=module, memory_events=False)
    by_phase = {"forward": 0, "backward": 0}
    for call in made.operators():
        if call.op in {"aten.mm", "aten.bmm"} and call.phase in by_phase:
            by_phase[call.phase] += call.read_bytes + call.written_bytes
    for stage, seen in by_phase.items():
        ops = [op for op in step_ops(PLAIN, work) if op.is_matmul and op.stage == stage]
        assert sum(op.cold_bytes + op.warm_bytes for op in ops) == seen, stage


def test_a_fused_kernel_does_the_triangle_and_its_backward_the_scores_again():
    """T=17: 17*18/2 = 153 scores a head; forward 4 E FLOPs each, backward 8 E + 2 E."""
    work = Workload(batch=3, seq_len=17, phase="train", attention="flash")
    core = {op.stage: op for op in step_ops(PLAIN, work) if op.part == "layers.attention.core"}
    n_scores, d_head = 3 * 5 * 153, 8
    assert core["forward"].flops == 3 * 4 * n_scores * d_head
    assert core["backward"].flops == 3 * 10 * n_scores * d_head
    in_and_out = 3 * 17 * 5 * 8 * 4  # one of q, k, v, result: [B,T,H,E] in fp32
    assert core["forward"].warm_bytes == 3 * 4 * in_and_out
    assert core["backward"].warm_bytes == 3 * 8 * in_and_out


def test_math_attention_writes_the_scores_out():
    """Four passes over [B,H,T,T] on top: written, read and written by softmax, read."""
    fused, written = (
        next(op for op in step_ops(PLAIN, Workload(batch=3, seq_len=17, attention=attention)) if "core" in op.part)
        for attention in ("flash", "math")
    )
    assert written.warm_bytes - fused.warm_bytes == 3 * 4 * (3 * 5 * 17 * 17) * 4


def test_a_window_limits_scores_and_keys():
    """Window 4, T=9: 1+2+3+4 + 5*4 = 30 scores a head."""
    spec = ModelSpec(name="w", n_layers=1, d_model=16, n_heads=2, vocab_size=11, window=4, max_seq_len=32)
    (core,) = [op for op in step_ops(spec, Workload(batch=1, seq_len=9)) if "core" in op.part]
    assert core.flops == 4 * 2 * 30 * 8
    (decode,) = [op for op in step_ops(spec, Workload(batch=1, seq_len=9, phase="decode")) if "core" in op.part]
    assert decode.cold_bytes == 2 * 4 * 16 * 4  # k and v of 4 tokens, 16 wide, fp32


def test_decode_reads_weights_and_the_cache_once_a_step():
    """One token: the weights, and k and v of every token so far, in bf16."""
    work = Workload(batch=7, seq_len=50, phase="decode", dtype="bf16")
    ops = step_ops(PLAIN, work)
    weights = sum(op.cold_bytes for op in ops if op.is_matmul)
    assert weights == 2 * (3 * (4 * 40 * 40 + 2 * 40 * 136) + 40 * 211)
    assert sum(op.cold_bytes for op in ops if "core" in op.part) == 2 * 3 * 7 * 50 * 2 * 40


@pytest.mark.parametrize(("optimizer", "n_arrays"), [("adamw", 7), ("sgd", 3), ("none", 0)])
def test_the_optimizer_streams_its_arrays(optimizer, n_arrays):
    """AdamW: p, g, m, v read; p, m, v written."""
    ops = step_ops(PLAIN, Workload(batch=1, seq_len=5, phase="train", optimizer=optimizer))
    moved = sum(op.cold_bytes for op in ops if op.stage == "optimizer")
    assert moved == n_arrays * 4 * count_params(PLAIN).total


def test_a_batch_reads_only_the_experts_that_it_can_reach():
    """One token of two experts reads two of seven; many tokens read all seven."""
    spec = SPECS[2]

    def experts(batch):
        work = Workload(batch=batch, seq_len=9, phase="decode")
        return {layer.n_matrices for layer in linears(spec, work) if layer.part.startswith("layers.moe.up")}

    assert experts(1) == {2}
    assert experts(64) == {7}


def test_recomputation_runs_the_layers_again_and_not_the_head():
    """The recompute stage repeats what stands under layers."""
    ops = step_ops(PLAIN, Workload(batch=2, seq_len=9, phase="train", recompute="full"))
    again = {op.part: op.flops for op in ops if op.stage == "recompute"}
    assert again == {op.part: op.flops for op in ops if op.stage == "forward" and op.part.startswith("layers.")}


def test_what_has_no_closed_form_is_refused():
    """Mixed precision's casts, and multi-token prediction."""
    with pytest.raises(SpecError, match="precision=autocast"):
        step_ops(PLAIN, Workload(phase="train", precision="autocast", dtype="bf16"))
    deep = load_spec("deepseek-v3")
    if deep.n_mtp_layers:
        with pytest.raises(SpecError, match="n_mtp_layers"):
            step_ops(deep, Workload(phase="train", seq_len=9))
