"""The reference network against the closed forms, against itself in the other style, and against its own cache."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flopwatch.cost.flops import step_flops
from flopwatch.errors import SpecError
from flopwatch.model.params import count_params
from flopwatch.model.spec import spec_from_fields
from flopwatch.reference.model import build_model
from flopwatch.reference.step import build_step, make_step
from flopwatch.workload import Workload


def _spec(**fields):
    return spec_from_fields({"n_layers": 3, "d_model": 36, "n_heads": 6, "vocab_size": 101, "max_seq_len": 19} | fields)


SPECS = {
    "gpt": _spec(),
    "tied": _spec(tied_head=True),
    "grouped and gated": _spec(n_kv_heads=2, positions="rope", ffn="swiglu", norm="rmsnorm", bias=False),
    "windows": _spec(window=5, window_pattern="LG", positions="rope"),
    "alibi": _spec(positions="alibi", window=4),
    "parallel": _spec(parallel_block=True, norms_per_layer=1),
    "experts": _spec(
        positions="rope",
        moe={
            "n_experts": 5,
            "experts_per_token": 2,
            "d_ff_expert": 28,
            "n_shared_experts": 1,
            "shared_gate": True,
            "first_dense_layers": 1,
        },
    ),
    "latent": _spec(
        positions="rope", bias=False, mla={"kv_rank": 12, "d_nope": 8, "d_rope": 4, "d_value": 6, "q_rank": 10}
    ),
    "narrow embedding": _spec(d_embed=20),
    "normed queries": _spec(qk_norm="full", norms_per_layer=4),
}
EACH_SPEC = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
EACH_STYLE = pytest.mark.parametrize("ops", ["elementary", "fused"])


@EACH_SPEC
@EACH_STYLE
def test_parameters_equal_the_closed_form(spec, ops):
    """The module's own parameters, tied ones once, are what count_params says."""
    model = build_model(spec, ops=ops, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == count_params(spec).total


@EACH_SPEC
@EACH_STYLE
@pytest.mark.parametrize("phase", ["forward", "train", "prefill", "decode"])
def test_operators_counted_by_torch_on_meta_equal_the_closed_form(spec, ops, phase):
    """torch's own counter is right on meta, where attention is plain matmuls: the totals are equal to the integer."""
    workload = Workload(batch=3, seq_len=17, phase=phase)
    step = make_step(build_model(spec, ops=ops, device="meta"), workload)
    with FlopCounterMode(display=False) as counter:
        step()
    assert counter.get_total_flops() == step_flops(spec, workload).model_flops


@EACH_SPEC
def test_the_two_styles_agree_to_rounding(spec):
    """Same parameters, same outputs: elementary and fused are one network."""
    elementary = build_model(spec, ops="elementary", seed=3)
    fused = build_model(spec, ops="fused", seed=4)
    fused.load_state_dict(elementary.state_dict())
    ids = torch.randint(101, (2, 17), generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(elementary(ids), fused(ids), rtol=0, atol=2e-6)


@EACH_SPEC
@EACH_STYLE
def test_prefill_and_decode_give_the_logits_of_the_whole_pass(spec, ops):
    """Twelve tokens at once and five one by one end where seventeen at once end."""
    model = build_model(spec, ops=ops, seed=6)
    ids = torch.randint(101, (2, 17), generator=torch.Generator().manual_seed(7))
    cache = model.make_cache(2, 17)
    with torch.no_grad():
        whole = model(ids)
        torch.testing.assert_close(model.extend(ids[:, :12], cache)[:, 0], whole[:, 11], rtol=0, atol=2e-6)
        for t in range(12, 17):
            last = model.extend(ids[:, t : t + 1], cache)
    torch.testing.assert_close(last[:, 0], whole[:, 16], rtol=0, atol=2e-6)


@EACH_STYLE
def test_no_token_sees_the_future(ops):
    """Changing the last token changes only the last logits."""
    model = build_model(_spec(window=5), ops=ops, seed=8)
    ids = torch.randint(100, (1, 17), generator=torch.Generator().manual_seed(9))
    changed = ids.clone()
    changed[0, -1] += 1
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :-1], after[:, :-1], rtol=0, atol=1e-6)
    assert not torch.allclose(before[:, -1], after[:, -1])


def test_a_window_hides_what_lies_before_it():
    """With one layer and a window of 5, token 16 sees 12..16: changing token 11 changes nothing there."""
    spec = _spec(n_layers=1, window=5, positions="rope")
    for ops in ("elementary", "fused"):
        model = build_model(spec, ops=ops, seed=8)
        ids = torch.randint(100, (1, 17), generator=torch.Generator().manual_seed(9))
        outside, inside = ids.clone(), ids.clone()
        outside[0, 11] += 1
        inside[0, 12] += 1
        torch.testing.assert_close(model(ids)[:, -1], model(outside)[:, -1], rtol=0, atol=1e-6)
        assert not torch.allclose(model(ids)[:, -1], model(inside)[:, -1])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_training_step_changes_the_weights(optimizer):
    """The step is a real one: loss, backward, optimizer."""
    model = build_model(_spec(), seed=10)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    make_step(model, Workload(batch=2, seq_len=17, phase="train", optimizer=optimizer))()
    unchanged = [name for name, value in before.items() if torch.equal(value, model.get_parameter(name))]
    # A bias on all keys shifts every score of a query alike: its true gradient is zero.
    assert all("attention.k.bias" in name for name in unchanged)


def test_checkpointing_changes_memory_not_gradients():
    """Recomputed layers give the gradients of plain ones."""
    ids = torch.randint(101, (2, 17), generator=torch.Generator().manual_seed(11))
    gradients = []
    for recompute in ("none", "full"):
        model = build_model(_spec(), recompute=recompute, seed=12)
        model(ids).square().mean().backward()
        gradients.append(model.layers[0].ffn.up.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_sequence_longer_than_the_context_is_refused():
    """The position table ends at the context; nothing is silently cut."""
    with pytest.raises(SpecError, match="seq_len=20 is longer than the context of custom, 19"):
        build_step(_spec(), Workload(seq_len=20))


def test_what_the_network_does_not_have_is_refused():
    """Closed forms know multi-token prediction; the reference network says that it does not."""
    with pytest.raises(SpecError, match="has no n_mtp_layers=1"):
        build_model(_spec(n_mtp_layers=1))
