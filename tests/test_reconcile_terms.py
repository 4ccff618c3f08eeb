"""Reconciling by term: which modules are which terms, and how a disagreement reads."""

import json

import pytest

from flopwatch.compare.reconcile import reconcile, terms_of_module
from flopwatch.cost.flops import StepFlops, step_flops
from flopwatch.model.huggingface import config_fields
from flopwatch.model.spec import spec_from_fields
from flopwatch.tally import Tally
from flopwatch.workload import Workload
from hf_configs import CONFIGS

PATHS = {
    "layers.attention.q": "q",
    "model.layers.self_attn.o_proj": "out",
    "transformer.h.attn.c_attn": "q k v",
    "transformer.h.self_attention.query_key_value": "q k v",
    "model.layers.self_attn.kv_a_proj_with_mqa": "kv_down",
    "model.layers.self_attn": "scores values",
    "layers.attention.core": "scores values",
}
OTHER_PATHS = {
    "layers.ffn.gate": ("layers.ffn.gate",),
    "transformer.h.mlp.c_proj": ("layers.ffn.down",),
    "model.layers.mlp.gate_up_proj": ("layers.ffn.gate", "layers.ffn.up"),
    "layers.moe.router": ("layers.moe.router",),
    "model.layers.mlp.gate": ("layers.moe.router",),
    "layers.moe.experts.down": ("layers.moe.down",),
    "model.layers.mlp.experts": ("layers.moe.gate", "layers.moe.up", "layers.moe.down"),
    "model.layers.mlp.shared_expert.up_proj": ("layers.shared.up",),
    "model.layers.mlp.shared_expert_gate": ("layers.shared.router_gate",),
    "lm_head": ("head",),
    "project_out": ("head_projection",),
    "model.norm": (),
    "(outside)": (),
}


@pytest.mark.parametrize("path", [*PATHS, *OTHER_PATHS])
def test_a_modules_path_says_which_terms_it_computes(path):
    """Names of the reference network and of transformers."""
    expected = OTHER_PATHS.get(path) or tuple(f"layers.attention.{name}" for name in PATHS.get(path, "").split())
    assert terms_of_module(path) == expected


def _closed(**forward):
    return StepFlops(forward=Tally(forward), backward=Tally(), recompute=Tally(), in_kernel=Tally())


def test_the_largest_disagreement_comes_first_and_is_named():
    """A head that is 100 too small, queries that are 7 too many, a module that nobody knows, a missing term."""
    closed = _closed(**{"head": 500, "layers.attention.q": 40, "layers.attention.k": 20, "layers.ffn.up": 9})
    modules = {
        "lm_head": {"forward": 400},
        "model.layers.0.self_attn.q_proj": {"forward": 30},
        "model.layers.1.self_attn.q_proj": {"forward": 17},
        "model.layers.1.self_attn.k_proj": {"forward": 20},
        "model.rotary_emb": {"forward": 3},
    }
    found = reconcile(closed, modules)
    assert [(row.name, row.difference) for row in found.disagreements] == [
        ("head", -100),
        ("layers.ffn.up", -9),
        ("layers.attention.q", 7),
        ("not in the closed form: model.rotary_emb", 3),
    ]
    assert not found.is_exact
    assert found.total("forward") == (569, 470)
    assert found.rows[-1].name == "layers.attention.k"
    assert found.rows[0].to_dict()["modules"] == ["lm_head"]


def test_terms_that_agree_stand_in_the_order_of_their_size():
    """Nothing disagrees: the head is the largest; equal ones keep the order of phases and names."""
    terms = {"layers.attention.k": 20, "layers.attention.q": 20, "head": 500, "layers.ffn.up": 90}
    closed = StepFlops(forward=Tally(terms), backward=Tally({"head": 20}), recompute=Tally(), in_kernel=Tally())
    modules = {
        "model.layers.0.self_attn.q_proj": {"forward": 20},
        "model.layers.0.self_attn.k_proj": {"forward": 20},
        "model.layers.0.mlp.up_proj": {"forward": 90},
        "lm_head": {"forward": 500, "backward": 20},
    }
    for order in (modules, dict(reversed(modules.items()))):
        found = reconcile(closed, order)
        assert found.is_exact
        assert [(row.name, row.phase, row.traced) for row in found.rows] == [
            ("head", "forward", 500),
            ("layers.ffn.up", "forward", 90),
            ("layers.attention.k", "forward", 20),
            ("layers.attention.q", "forward", 20),
            ("head", "backward", 20),
        ]


def test_terms_that_one_module_computes_are_compared_together():
    """A fused projection in one layer and separate ones in another: one group of three."""
    closed = _closed(**{"layers.attention.q": 40, "layers.attention.k": 20, "layers.attention.v": 20})
    modules = {"h.0.attn.qkv_proj": {"forward": 40}, "h.1.attn.q_proj": {"forward": 20}, "h.1.attn.k": {"forward": 20}}
    (row,) = reconcile(closed, modules).rows
    assert (row.name, row.difference) == ("layers.attention.k + q + v", 0)


transformers = pytest.importorskip("transformers")
KINDS = ["gpt2", "llama", "qwen2_moe", "gemma2", "falcon", "opt", "deepseek_v3", "gpt_oss", "phi3", "bloom"]


@pytest.mark.parametrize("model_type", KINDS)
def test_transformers_own_models_reconcile_term_by_term(model_type):
    """Forward and backward of each term equal the modules that compute it, to the integer."""
    torch = pytest.importorskip("torch")
    from flopwatch.trace.api import trace_model

    config = transformers.CONFIG_MAPPING[model_type](**CONFIGS[model_type][0])
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
    ids = torch.empty(2, 9, dtype=torch.int64, device="meta")
    traced = trace_model(
        model,
        (),
        {"input_ids": ids, "use_cache": False},
        phase="train",
        loss=lambda output: output.logits.sum(),
        attention="math",
    )
    spec = spec_from_fields(config_fields(json.loads(json.dumps(config.to_dict())), "config.json"))
    closed = step_flops(spec, Workload(batch=2, seq_len=9, phase="train", attention="math"))
    found = reconcile(closed, {path: row.to_dict() for path, row in traced.modules.items()})
    assert [(row.phase, row.name, row.difference) for row in found.disagreements] == []
    assert found.total("backward") == (closed.backward.total, traced.backward.total)
    assert traced.coverage == "complete"
