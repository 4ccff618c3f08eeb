"""config.json -> ModelSpec: parameters and FLOPs are those of transformers' own model."""

import dataclasses
import json
import tomllib
from pathlib import Path

import msgspec
import pytest

import flopwatch.model.huggingface as package
from flopwatch.cost.differences import explain_gap
from flopwatch.cost.flops import forward_flops, step_flops
from flopwatch.model.huggingface import config_fields, model_types
from flopwatch.model.load import load_spec
from flopwatch.model.params import count_active_params, count_params
from flopwatch.model.spec import spec_from_fields
from flopwatch.workload import Workload
from hf_configs import CONFIGS, FAMOUS

torch = pytest.importorskip("torch")
flop_counter = pytest.importorskip("torch.utils.flop_counter")
transformers = pytest.importorskip("transformers")

ASKED_FOR = {
    "gpt2",
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
    "qwen2_moe",
    "qwen3_moe",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi3",
    "gpt_neox",
    "falcon",
    "bloom",
    "opt",
    "mpt",
    "olmo2",
    "deepseek_v2",
    "deepseek_v3",
    "gpt_oss",
    "starcoder2",
    "stablelm",
    "cohere",
    "granite",
}
CASES = [(model_type, n) for model_type, variants in CONFIGS.items() for n in range(len(variants))]
B, T = 2, 9


def _config(model_type, arguments):
    return transformers.CONFIG_MAPPING[model_type](**arguments)


def _build(config, device):
    """transformers' own model; its experts in an operator that torch's counter knows."""
    experts = {"experts_implementation": "batched_mm"} if "num_experts_per_tok" in config.to_dict() else {}
    with torch.device(device):
        return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", **experts).eval()


def _spec(data):
    return spec_from_fields(config_fields(json.loads(json.dumps(data)), "config.json"))


def _traced(run):
    """What run() gives, and the FLOPs of its matmuls by torch's own counter."""
    with flop_counter.FlopCounterMode(display=False) as counter:
        result = run()
    return result, counter.get_total_flops()


@pytest.mark.parametrize(("model_type", "n"), CASES)
def test_parameters_are_those_of_transformers_own_model(model_type, n):
    """Written by transformers or by hand with keys left out: the same count as sum(p.numel())."""
    config = _config(model_type, CONFIGS[model_type][n])
    expected = sum(p.numel() for p in _build(config, "meta").parameters())
    assert count_params(_spec(config.to_dict())).total == expected
    assert count_params(_spec({"model_type": model_type, **CONFIGS[model_type][n]})).total == expected


@pytest.mark.parametrize(
    ("model_type", "n"),
    [pytest.param(*case, marks=[pytest.mark.slow] if case[1] else []) for case in CASES],
)
def test_flops_of_a_training_step_are_those_of_a_trace(model_type, n):
    """Forward and backward of transformers' own model, counted by torch's counter, to the integer."""
    config = _config(model_type, CONFIGS[model_type][n])
    model = _build(config, "cpu")
    ids = torch.arange(B * T).reshape(B, T) + 1
    logits, forward = _traced(lambda: model(input_ids=ids, use_cache=False).logits)
    _, backward = _traced(logits.square().mean().backward)
    step = step_flops(_spec(config.to_dict()), Workload(batch=B, seq_len=T, phase="train"))
    assert (forward, backward) == (step.forward.total, step.backward.total)


@pytest.mark.parametrize(("model_type", "n"), CASES)
def test_flops_of_prefill_and_decode_are_those_of_a_trace_or_by_a_named_difference(model_type, n):
    """With a cache: what transformers does otherwise has a name and an exact size."""
    config = _config(model_type, CONFIGS[model_type][n])
    model, spec = _build(config, "cpu"), _spec(config.to_dict())
    ids = torch.arange(B * T).reshape(B, T) + 1
    with torch.no_grad():
        filled, prefill = _traced(lambda: model(input_ids=ids, use_cache=True, logits_to_keep=1))
        cache = filled.past_key_values
        _, decode = _traced(lambda: model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True))
    names = {}
    for flops, phase, seq_len in ((prefill, "prefill", T), (decode, "decode", T + 1)):
        workload = Workload(batch=B, seq_len=seq_len, phase=phase)
        found = explain_gap(spec, workload, flops - forward_flops(spec, workload).total)
        assert found is not None, f"{phase}: {flops - forward_flops(spec, workload).total} FLOPs have no name"
        names[phase] = [difference.name for difference in found]
    is_windowed = spec.n_windowed_layers > 0 and spec.window < T
    expected = ["sliding-window cache"] if is_windowed else ["latents expanded again"] if spec.mla is not None else []
    projected = ["head projection of every position"] if spec.d_embed != spec.d_model else []
    assert names == {"prefill": projected, "decode": expected}


def test_every_type_that_was_asked_for_is_tested():
    """The list of issue B, and every type that the importer knows, has its configs here."""
    assert set(model_types()) >= ASKED_FOR
    assert set(CONFIGS) == set(model_types())


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_defaults_are_those_of_transformers(model_type):
    """A key that a config.json leaves out is read as transformers' config class reads it."""
    ours = tomllib.loads(Path(package.__file__).with_name("defaults.toml").read_text(encoding="utf-8"))[model_type]
    theirs = {field.name: field.default for field in dataclasses.fields(transformers.CONFIG_MAPPING[model_type])}
    beyond = {"seq_length": 2048} if model_type == "bloom" else {}  # BLOOM's own key, which transformers drops
    assert ours == {key: theirs.get(key) for key in ours} | beyond


@pytest.mark.parametrize("preset", sorted(FAMOUS))
def test_a_famous_model_is_the_same_by_preset_by_config_and_by_transformers(preset):
    """The preset's spec is that of its config.json, and its parameters those of transformers' model on meta."""
    model_type, arguments = FAMOUS[preset]
    config = _config(model_type, arguments)
    by_name, by_config = load_spec(preset), _spec(config.to_dict())
    rows = {"name": by_name.name, "vocab_size": by_name.vocab_size}  # a config's vocab_size counts padding too
    assert msgspec.structs.replace(by_config, **rows) == by_name
    assert count_params(by_name).total == sum(p.numel() for p in _build(config, "meta").parameters())


def test_every_type_that_was_asked_for_has_a_famous_model():
    """None of the types of issue B rests on made-up sizes alone."""
    assert {model_type for model_type, _ in FAMOUS.values()} >= ASKED_FOR


def test_active_parameters_leave_out_the_idle_experts():
    """Mixtral 8x7B: 46.7B parameters, 12.9B of them for one token (Mixtral paper, table 1: 13B)."""
    spec = _spec(transformers.MixtralConfig(vocab_size=32000, max_position_embeddings=32768).to_dict())
    assert count_params(spec).total == 46_702_792_704
    assert count_active_params(spec) == 12_879_925_248
