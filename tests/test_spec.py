"""ModelSpec and Workload: what is derived, what is refused and how it is said."""

import pytest

from flopwatch.errors import SpecError
from flopwatch.model.spec import MLASpec, ModelSpec, spec_from_fields
from flopwatch.workload import Workload

GPT = {"n_layers": 12, "d_model": 768, "n_heads": 12, "vocab_size": 50257}


def test_fields_left_out_are_derived():
    """Heads, FFN and padding follow from the widths."""
    spec = spec_from_fields(GPT)
    assert (spec.n_kv_heads, spec.d_head, spec.d_ff, spec.padded_vocab_size) == (12, 64, 3072, 50257)
    assert spec.qkv_bias
    assert spec.norm_bias
    assert spec.window_pattern == "G"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"d_model": 770},
            "d_model=770 is not divisible by n_heads=12; give d_head if the heads are not d_model / n_heads",
        ),
        ({"n_layers": 0}, "n_layers=0 is not a positive whole number"),
        ({"vocab_size": -1}, "vocab_size=-1 is not a positive whole number"),
        ({"d_model": 1 << 60}, "d_model=1152921504606846976 is not a positive whole number"),
        ({"n_kv_heads": 5}, "n_heads=12 is not divisible by n_kv_heads=5"),
        ({"n_kv_heads": 0}, "n_kv_heads=0 is not a positive whole number"),
        ({"n_layers": "12"}, "n_layers: expected `int`, got `str`"),
        ({"n_layers": 12.0}, "n_layers: expected `int`, got `float`"),
        ({"n_layers": None}, "n_layers: expected `int`, got `null`"),
        ({"ffn": "silu"}, "ffn='silu' is not one of gelu, relu, swiglu, geglu"),
        ({"d_modle": 768}, "'d_modle' is not a field of a model; did you mean d_model?"),
        ({"window": 0}, "window=0 is not a positive number of tokens"),
        ({"window_pattern": "LG"}, "has windowed layers but window is not given"),
        ({"window": 5, "window_pattern": "xy"}, "is not made of L and G"),
        ({"padded_vocab_size": 50000}, "padded_vocab_size=50000 is below vocab_size=50257"),
        (
            {"moe": {"n_experts": 4, "experts_per_token": 5, "d_ff_expert": 64}},
            "moe.experts_per_token=5 is more than moe.n_experts=4",
        ),
        ({"moe": {"n_experts": 4}}, "moe: "),
        ({"mla": {"kv_rank": 0, "d_nope": 1, "d_rope": 1, "d_value": 1}}, "mla.kv_rank=0"),
    ],
)
def test_numbers_that_describe_no_network_are_refused(fields, message):
    """The value, the rule and the way out, naming the field."""
    with pytest.raises(SpecError) as caught:
        spec_from_fields(GPT | fields)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_field_is_named():
    """A network needs its layers, width, heads and vocabulary."""
    with pytest.raises(SpecError, match="missing required field `n_layers`"):
        spec_from_fields({"d_model": 8, "n_heads": 2, "vocab_size": 11})


def test_windows_repeat_over_the_layers():
    """LLG over 8 layers: L L G L L G L L."""
    spec = spec_from_fields(GPT | {"n_layers": 8, "window": 64, "window_pattern": "LLG"})
    assert [spec.is_windowed(layer) for layer in range(8)] == [True, True, False, True, True, False, True, True]
    assert spec.n_windowed_layers == 6


def test_experts_stand_on_their_grid():
    """The first layers dense, then every second one with experts, counted as they stand."""
    moe = {"n_experts": 8, "experts_per_token": 2, "d_ff_expert": 64, "first_dense_layers": 1, "layer_step": 2}
    spec = spec_from_fields(GPT | {"n_layers": 8, "moe": moe})
    where = [layer for layer in range(8) if spec.is_moe(layer)]
    assert where == [2, 4, 6]
    assert spec.n_moe_layers == len(where)


@pytest.mark.parametrize("field", ["batch", "seq_len", "n_accumulate"])
@pytest.mark.parametrize("value", [0, -3, 1 << 50])
def test_a_workload_counts_from_one(field, value):
    """Zero or negative sizes are no work."""
    with pytest.raises(SpecError, match=f"{field}={value} is not a positive whole number"):
        Workload(**{field: value})


def test_recompute_needs_a_backward_pass():
    """An option without meaning is refused, not ignored."""
    with pytest.raises(SpecError, match="recompute=full has no meaning in phase forward"):
        Workload(phase="forward", recompute="full")


def test_flash_attention_contradicts_elementary_operations():
    """Elementary operations write the scores out."""
    with pytest.raises(SpecError, match="attention=flash contradicts ops=elementary"):
        Workload(ops="elementary", attention="flash")


def test_decode_works_on_one_token_for_each_sequence():
    """Batch 3 at 1000 keys: three tokens, three rows of logits."""
    work = Workload(batch=3, seq_len=1000, phase="decode")
    assert (work.n_tokens, work.n_queries, work.n_logit_positions) == (3, 1, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Workload(phase="training"), "phase='training' is not one of forward, train, prefill, decode"),
        (lambda: Workload(phase="train", recompute="selective"), "recompute='selective' is not one of none, full"),
        (lambda: Workload(dtype="bfloat16"), "dtype='bfloat16' is not one of fp32, tf32, bf16"),
        (lambda: Workload(batch=True), "batch=True: expected `int`, got `bool`"),
        (lambda: ModelSpec(**GPT, ffn="swigluu"), "ffn='swigluu' is not one of gelu, relu, swiglu, geglu"),
        (lambda: ModelSpec(**GPT, tied_head="no"), "tied_head='no': expected `bool`, got `str`"),
        (lambda: ModelSpec(**GPT, d_ff=3072.0), "d_ff=3072.0: expected `int`, got `float`"),
        (lambda: ModelSpec(**GPT, moe={"n_experts": 2}), "missing required field `experts_per_token`"),
        (lambda: MLASpec(kv_rank=4, d_nope=4, d_rope=2, d_value=4, q_rank=1.5), "mla.q_rank=1.5: expected `int`"),
    ],
)
def test_a_value_that_no_file_could_hold_is_refused_in_python_too(make, message):
    """A phase that nobody knows would count as forward, a third of train: never a number without a word."""
    with pytest.raises(SpecError) as caught:
        make()
    assert message in str(caught.value)


def test_tables_and_lists_become_what_they_stand_for():
    """A dict of a mixture, as a spec file has it."""
    moe = {"n_experts": 4, "experts_per_token": 2, "d_ff_expert": 96, "dense_layers": [1, 5]}
    assert ModelSpec(**GPT, moe=moe) == spec_from_fields(GPT | {"moe": moe})
