"""What a meter counts for sequences of any length, against the closed form of each convention."""

import itertools

import pytest

import flopwatch as fw
from flopwatch.cost.convention import convention_names, flops_per_token
from flopwatch.errors import InputError
from flopwatch.measure.meter_cost import cost_of_spec

SMALL = {"d_model": 6, "n_heads": 3, "vocab_size": 7, "max_seq_len": 1000}
SPECS = {
    "plain": fw.ModelSpec(n_layers=2, **SMALL),
    "tied": fw.ModelSpec(n_layers=3, tied_head=True, positions="rope", **SMALL),
    "window": fw.ModelSpec(n_layers=5, window=37, window_pattern="LLG", **SMALL),
    "window of 1": fw.ModelSpec(n_layers=5, window=1, window_pattern="LG", **SMALL),
    "window of 2": fw.ModelSpec(n_layers=5, window=2, window_pattern="LG", **SMALL),
    "window of 3": fw.ModelSpec(n_layers=5, window=3, window_pattern="LG", **SMALL),
    "prediction of more tokens": fw.ModelSpec(n_layers=3, n_mtp_layers=2, window=11, **SMALL),
}


@pytest.mark.parametrize(("name", "convention"), list(itertools.product(SPECS, convention_names())))
def test_any_length_costs_what_the_closed_form_says(name, convention):
    """Parabolas through three lengths hold at all others, for every convention, below and beyond the window."""
    spec = SPECS[name]
    cost = cost_of_spec(spec, convention=convention, recompute="full")
    for length in (1, 2, 3, 4, 5, 10, 11, 12, 36, 37, 38, 39, 211, 997):
        model = flops_per_token(spec, length, convention) * length
        hardware = flops_per_token(spec, length, convention, recompute="full") * length
        assert cost.model[length] == pytest.approx(float(model), rel=1e-12)
        assert cost.hardware[length] == pytest.approx(float(hardware), rel=1e-12)


def test_gpt2s_tokens_cost_what_nanogpt_says():
    """nanoGPT's estimate for GPT-2 at 1024 tokens: 6 (124,439,808 - 786,432) + 12 x 12 x 12 x 64 x 1024."""
    cost = cost_of_spec(fw.load_spec("gpt2"), seq_len=1024, convention="nanogpt")
    assert cost.model_per_token == 6 * (124_439_808 - 786_432) + 12 * 12 * 12 * 64 * 1024
    assert cost.source == "gpt2, convention nanogpt"


@pytest.mark.parametrize("length", [0, -3, 2.5, "7", None])
def test_what_is_no_length_is_refused(length):
    """Not rounded, not skipped."""
    with pytest.raises(fw.FlopwatchError, match="is no length of a sequence"):
        _ = cost_of_spec(SPECS["plain"]).model[length]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"convention": "palm"}, "convention cannot change flops_per_token"),
        ({"hardware_flops_per_token": 8e9, "recompute": "full"}, "already holds recompute"),
        ({"hardware_flops_per_token": 8e9, "uses_flash": True}, "already holds recompute"),
    ],
)
def test_what_a_given_number_cannot_honour_is_refused(more, says):
    """No option is accepted and ignored."""
    with pytest.raises(InputError, match=says):
        fw.Meter(flops_per_token=6e9, peak_flops_per_s=1e12, **more)
