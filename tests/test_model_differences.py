"""Named differences: each has the size that a trace shows, and a gap that none explains stays unexplained."""

import pytest

from flopwatch.cost.differences import explain_gap, known_differences
from flopwatch.cost.flops import forward_flops
from flopwatch.model.huggingface import config_fields
from flopwatch.model.load import load_spec
from flopwatch.model.spec import spec_from_fields
from flopwatch.workload import Workload
from hf_configs import CONFIGS

B, T = 2, 9


def _names(spec, workload, gap_flops):
    found = explain_gap(spec, workload, gap_flops)
    return None if found is None else [difference.name for difference in found]


def test_no_gap_needs_no_name():
    """Agreement is explained by nothing at all."""
    assert explain_gap(load_spec("mixtral-8x7b"), Workload(phase="decode", seq_len=9000), 0) == ()


def test_a_gap_that_nothing_explains_is_said_to_be_one():
    """One FLOP too many is no rotary matmul."""
    spec = load_spec("llama-3.1-8b")
    assert _names(spec, Workload(batch=1, seq_len=7), 7 * 128) == ["rotary frequencies"]
    assert explain_gap(spec, Workload(batch=1, seq_len=7), 7 * 128 + 1) is None


@pytest.mark.parametrize(
    ("model_type", "n", "gap_flops", "name"),
    [
        # Gaps seen in traces of transformers 4.50.3, batch 2 x 9: 9 tokens, heads 8, 10 and 18 wide.
        ("llama", 0, 72, "rotary frequencies"),
        ("gemma2", 1, 162, "rotary frequencies"),
        ("gemma3_text", 0, 180, "rotary frequencies, two tables"),
        ("phi", 0, 36, "rotary frequencies, half the head"),
        ("gpt_neox", 0, 18, "rotary frequencies, a quarter of the head"),
    ],
)
def test_the_rotary_matmul_of_transformers_4_has_its_name(model_type, n, gap_flops, name):
    """[1,E/2,1] @ [1,1,T] once for all layers: T x E FLOPs, E the rotated part of a head."""
    fields = config_fields({"model_type": model_type, **CONFIGS[model_type][n]}, "config.json")
    assert _names(spec_from_fields(fields), Workload(batch=B, seq_len=T), gap_flops) == [name]


def test_two_sizes_of_one_thing_never_explain_a_gap_together():
    """Half a rotary matmul and a quarter of one are not three quarters of one."""
    workload = Workload(batch=1, seq_len=7)
    assert explain_gap(load_spec("llama-3.1-8b"), workload, 7 * 96) is None


def test_logits_of_every_position_and_a_window_are_named_together():
    """Prefill without logits_to_keep: the head on 8 more rows of 2 sequences; a decode step past the window."""
    spec = load_spec("mistral-7b", {"window": "5"})
    prefill = Workload(batch=B, seq_len=T, phase="prefill")
    assert _names(spec, prefill, 2 * B * (T - 1) * 4096 * 32000) == ["logits of every position"]
    decode = Workload(batch=B, seq_len=T, phase="decode")
    assert _names(spec, decode, -4 * B * 32 * 128 * (T - 5) * 32) == ["sliding-window cache"]


def test_padding_and_multi_token_prediction_that_a_model_lacks_are_named():
    """The head without its 200 rows of padding; DeepSeek-V3 as transformers builds it."""
    bloom, workload = load_spec("bloom-176b"), Workload(batch=B, seq_len=T)
    assert _names(bloom, workload, -2 * B * T * 14336 * 200) == ["no vocabulary padding"]
    with_mtp = load_spec("deepseek-v3", {"n_mtp_layers": "1"})
    gap = forward_flops(load_spec("deepseek-v3"), workload).total - forward_flops(with_mtp, workload).total
    assert _names(with_mtp, workload, gap) == ["no multi-token prediction"]


def test_experts_in_an_operator_without_a_formula_are_named():
    """torch's counter gives 0 for _grouped_mm: exactly the active experts are missing."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    flop_counter = pytest.importorskip("torch.utils.flop_counter")
    arguments = CONFIGS["mixtral"][0]
    config = transformers.MixtralConfig(**arguments)
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", experts_implementation="grouped_mm"
    ).eval()
    with torch.no_grad(), flop_counter.FlopCounterMode(display=False) as counter:
        model(input_ids=torch.ones(B, T, dtype=torch.long), use_cache=False)
    spec = spec_from_fields(config_fields({"model_type": "mixtral", **arguments}, "config.json"))
    workload = Workload(batch=B, seq_len=T)
    gap = counter.get_total_flops() - forward_flops(spec, workload).total
    assert gap in {0, -3 * 2 * B * T * 2 * 3 * 48 * 100}  # 0: a later torch counts it
    assert _names(spec, workload, gap) == ([] if gap == 0 else ["experts not counted"])


def test_every_difference_has_a_reason():
    """A name alone explains nothing."""
    spec = load_spec("deepseek-v3", {"n_mtp_layers": "1", "window": "5"})
    for phase in ("forward", "prefill", "decode"):
        known = known_differences(spec, Workload(batch=B, seq_len=T, phase=phase))
        assert known
        assert all(difference.reason and difference.flops for difference in known)
