"""Closed form and trace of the reference network agree to the integer over a grid of odd-sized networks."""

import itertools

import pytest
import torch
from torch.utils.checkpoint import set_checkpoint_early_stop

from flopwatch.compare.reconcile import reconcile
from flopwatch.cost.flops import step_flops
from flopwatch.model.spec import spec_from_fields
from flopwatch.reference.model import build_model
from flopwatch.reference.step import make_step
from flopwatch.trace.api import trace
from flopwatch.workload import Workload

SEQ_LEN = 13
_EXPERTS = {"n_experts": 5, "experts_per_token": 2, "d_ff_expert": 14}
# What attention sees and how heads are shared; what stands in the place of the FFN; how the rest is put together.
ATTENTION = {
    "full": {},
    "grouped": {"n_kv_heads": 3, "positions": "rope"},
    "one kv head": {"n_kv_heads": 1, "positions": "rope", "d_head": 10, "qkv_bias": True},
    "window": {"window": 5, "positions": "rope"},
    "windows in turn": {"window": 4, "window_pattern": "LLG", "positions": "alibi", "n_kv_heads": 2},
}
FFN = {
    "gelu": {},
    "relu": {"ffn": "relu", "d_ff": 41},
    "swiglu": {"ffn": "swiglu", "d_ff": 50, "norm": "rmsnorm", "bias": False},
    "experts": {"moe": _EXPERTS, "ffn": "geglu"},
    "shared experts": {"moe": _EXPERTS | {"n_shared_experts": 2, "first_dense_layers": 1}, "ffn": "swiglu"},
    "gated shared experts": {"moe": _EXPERTS | {"n_shared_experts": 1, "shared_gate": True, "layer_step": 2}},
}
SHAPE = {"untied": {"vocab_size": 67}, "tied": {"vocab_size": 71, "tied_head": True, "padded_vocab_size": 80}}
OTHERS = {
    "parallel": {"parallel_block": True, "norms_per_layer": 1},
    "parallel with two norms": {"parallel_block": True, "norms_per_layer": 2, "ffn": "geglu"},
    "narrow embedding": {"d_embed": 22},
    "four norms": {"norms_per_layer": 4, "qk_norm": "per_head", "positions": "rope"},
    "four norms and experts": {"norms_per_layer": 4, "moe": _EXPERTS | {"n_shared_experts": 1}},
    "normed queries": {"qk_norm": "full", "n_kv_heads": 2, "positions": "rope"},
    "latent": {"positions": "rope", "mla": {"kv_rank": 11, "d_nope": 6, "d_rope": 4, "d_value": 5, "q_rank": 9}},
    "latent with experts": {
        "positions": "rope",
        "mla": {"kv_rank": 11, "d_nope": 6, "d_rope": 4, "d_value": 5},
        "moe": _EXPERTS | {"n_shared_experts": 1, "first_dense_layers": 1},
    },
}


def _grid():
    """Name -> ModelSpec: every kind of attention with every kind of FFN in both shapes, and the odd ones out."""
    named = {f"{a}, {f}, {s}": ATTENTION[a] | FFN[f] | SHAPE[s] for a, f, s in itertools.product(ATTENTION, FFN, SHAPE)}
    specs = {}
    for n, (name, fields) in enumerate((named | OTHERS).items()):
        base = {"n_layers": 2 + n % 3, "d_model": 24 + 12 * (n % 4), "n_heads": 6, "vocab_size": 61, "max_seq_len": 19}
        specs[name] = spec_from_fields(base | fields)
    return specs


GRID = _grid()
# A quarter of the grid in every check, all of it in the whole suite.
EACH = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if n % 4 else []) for n, name in enumerate(GRID)]
)


def _assert_agree(spec, *, early_stop=True, **workload):
    work = Workload(batch=3, seq_len=SEQ_LEN, optimizer="none", **workload)
    model = build_model(
        spec, ops=work.ops, attention=work.attention, recompute=work.recompute, device=torch.device("meta")
    )
    with set_checkpoint_early_stop(early_stop):
        traced = trace(make_step(model, work), model=model, memory_events=False)
    closed = step_flops(spec, work, early_stop=early_stop)
    assert traced.coverage == "complete"
    found = reconcile(closed, {path: row.to_dict() for path, row in traced.modules.items()})
    assert [(row.phase, row.name, row.difference) for row in found.disagreements] == []
    for phase in ("forward", "backward", "recompute", "in_kernel"):
        total = traced.sums.to_dict()[phase]
        assert found.total(phase) == (total, total), phase
    return traced


def test_the_grid_has_sixty_networks_and_more():
    """Sixty combinations and the odd ones out, all different."""
    assert len({str(spec.to_dict()) for spec in GRID.values()}) == len(GRID) >= 60


@EACH
def test_every_phase_agrees_term_by_term(name):
    """Forward, prefill, decode and training, elementary and fused: each term of the closed form, to the integer."""
    spec = GRID[name]
    for phase in ("forward", "prefill", "decode"):
        _assert_agree(spec, phase=phase)
    _assert_agree(spec, phase="train", ops="elementary", attention="math")
    traced = _assert_agree(spec, phase="train", attention="flash")
    assert traced.backward.total == 2 * traced.forward.total


@EACH
def test_recomputation_agrees_term_by_term(name):
    """Checkpointed layers, with early stop and without, plain and fused attention."""
    spec = GRID[name]
    _assert_agree(spec, phase="train", recompute="full", ops="elementary", attention="math")
    traced = _assert_agree(spec, phase="train", recompute="full", attention="flash", early_stop=False)
    assert traced.recompute == traced.forward.only("layers")


def test_accumulation_agrees():
    """Three micro-batches of a step count three times."""
    _assert_agree(GRID["grouped, swiglu, untied"], phase="train", n_accumulate=3, attention="math")
