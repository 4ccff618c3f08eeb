"""config.json -> ModelSpec: parameters and FLOPs are those of transformers' own model."""

import json

import pytest
from hf_configs import CONFIGS

from flopwatch.cost.flops import forward_flops
from flopwatch.model.huggingface import config_fields, model_types
from flopwatch.model.params import count_params
from flopwatch.model.spec import spec_from_fields
from flopwatch.workload import Workload

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CASES = [(model_type, n) for model_type, variants in CONFIGS.items() for n in range(len(variants))]


def _config(model_type, arguments):
    return transformers.CONFIG_MAPPING[model_type](**arguments)


def _build(config, device):
    with torch.device(device):
        return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def _spec(data):
    return spec_from_fields(config_fields(json.loads(json.dumps(data)), "config.json"))


@pytest.mark.parametrize(("model_type", "n"), CASES)
def test_parameters_are_those_of_transformers_own_model(model_type, n):
    """Written by transformers or by hand with keys left out: the same count as sum(p.numel())."""
    config = _config(model_type, CONFIGS[model_type][n])
    expected = sum(p.numel() for p in _build(config, "meta").parameters())
    assert count_params(_spec(config.to_dict())).total == expected
    assert count_params(_spec({"model_type": model_type, **CONFIGS[model_type][n]})).total == expected
