"""Fuzzed configs and spec files: a clear error or the right count, never anything else."""

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flopwatch.cost.flops import forward_flops
from flopwatch.errors import FlopwatchError
from flopwatch.model.huggingface import config_fields
from flopwatch.model.load import load_spec
from flopwatch.model.params import count_active_params, count_params
from flopwatch.model.spec import spec_from_fields
from flopwatch.workload import Workload
from hf_configs import CONFIGS

SETTINGS = {
    "deadline": None,
    "derandomize": True,  # the same examples everywhere: a new find belongs in a test of its own
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([0, -1, 2**31, 2**40, 2**63, 10**30]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from(["", "48", "silu", "relu", "../config.json", "file:///dev/zero", "full_attention", "{}", "\x00"]),
    st.recursive(
        st.one_of(st.none(), st.integers(), st.text(max_size=5)),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=12,
    ),
)
KEYS = [
    *sorted({key for variants in CONFIGS.values() for variant in variants for key in variant}),
    *("model_type", "text_config", "auto_map", "attn_config", "layer_types", "rope_scaling", "rope_parameters"),
    *("mlp_only_layers", "no_rope_layers", "sliding_window_pattern", "max_window_layers", "hidden_act"),
    *("hidden_activation", "n_routed_experts", "is_encoder_decoder", "num_local_experts", "expansion_ratio"),
]
TYPE_AND_CONFIG = st.sampled_from([(name, config) for name, variants in CONFIGS.items() for config in variants])


@st.composite
def configs(draw):
    """A config of a known type with some keys dropped, and some with values that do not belong there."""
    model_type, arguments = draw(TYPE_AND_CONFIG)
    config = {"model_type": model_type, **arguments}
    for key in draw(st.lists(st.sampled_from(sorted(config)), max_size=2, unique=True)):
        del config[key]
    own = sorted(config) + KEYS
    return config | draw(st.dictionaries(st.sampled_from(own), JUNK, max_size=3))


def _spec_or_none(config):
    try:
        return spec_from_fields({"name": "fuzzed", **_fields(config)})
    except FlopwatchError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 1000
    return None


def _fields(config):
    fields = config_fields(config, "config.json")
    fields.pop("part", None)
    return fields


@settings(max_examples=400, **SETTINGS)
@given(configs())
def test_a_fuzzed_config_gives_a_clear_error_or_a_network(config):
    """Missing keys, wrong types, negative, huge, nested: a FlopwatchError in one line, or counts that are whole."""
    spec = _spec_or_none(config)
    if spec is not None:
        total = count_params(spec).total
        assert 0 < count_active_params(spec) <= total
        assert forward_flops(spec, Workload(batch=1, seq_len=1)).total > 0


@settings(max_examples=150, **SETTINGS)
@given(configs())
def test_a_fuzzed_config_that_transformers_builds_has_its_parameter_count(config):
    """Never a wrong count: where transformers makes a model of it, the numbers agree."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    spec = _spec_or_none(config)
    if spec is None or spec.n_layers > 8 or max(spec.d_model, spec.d_ff, spec.vocab_size, spec.d_head) > 1000:
        return
    arguments = {key: value for key, value in config.items() if key != "model_type"}
    try:
        theirs = transformers.CONFIG_MAPPING[config["model_type"]](**arguments)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(theirs, attn_implementation="eager")
    except Exception:  # noqa: BLE001 - whatever transformers raises, it builds nothing to compare with
        return
    assert count_params(spec).total == sum(p.numel() for p in model.parameters())


@settings(max_examples=150, **SETTINGS)
@given(data=st.binary(max_size=200), suffix=st.sampled_from([".json", ".toml"]))
def test_any_bytes_in_a_file_give_a_clear_error(tmp_path, data, suffix):
    """Binary junk, cut text, odd encodings."""
    path = tmp_path / f"junk{suffix}"
    path.write_bytes(data)
    with pytest.raises(FlopwatchError):
        load_spec(str(path))


SPEC_FIELDS = ["n_layers", "d_model", "n_heads", "vocab_size", "d_ff", "d_head", "ffn", "window", "window_pattern"]
SPEC_FIELDS += [
    "moe",
    "mla",
    "norm",
    "name",
    "padded_vocab_size",
    "n_mtp_layers",
    "norms_per_layer",
    "qk_norm",
    "other",
]


@settings(max_examples=300, **SETTINGS)
@given(st.dictionaries(st.sampled_from(SPEC_FIELDS), JUNK, max_size=4))
def test_a_fuzzed_spec_file_gives_a_clear_error_or_a_network(tmp_path, changes):
    """The same for a spec file's fields."""
    path = tmp_path / "spec.json"
    fields = {"n_layers": 3, "d_model": 48, "n_heads": 6, "vocab_size": 211, **changes}
    path.write_text(json.dumps({k: None if isinstance(v, float) and math.isnan(v) else v for k, v in fields.items()}))
    try:
        spec = load_spec(str(path))
    except FlopwatchError:
        return
    assert count_params(spec).total > 0


@settings(max_examples=300, **SETTINGS)
@given(
    st.dictionaries(st.one_of(st.sampled_from([*SPEC_FIELDS, "moe.n_experts", "mla.kv_rank"]), st.text()), st.text())
)
def test_a_fuzzed_change_gives_a_clear_error_or_a_network(changes):
    """--set with any name and any text."""
    try:
        spec = load_spec("gpt-small", changes)
    except FlopwatchError:
        return
    assert count_params(spec).total > 0
