"""What the calculator's figures are compared with: the closed forms themselves, at the numbers that were chosen."""

import itertools
import random

from flopwatch.api.roofline import datasheet_roof
from flopwatch.compare.roofline import roofline
from flopwatch.compare.whatif.evaluate import Choice
from flopwatch.cost.flops import step_flops
from flopwatch.cost.memory import estimate_memory
from flopwatch.device.catalog import catalog_devices
from flopwatch.measure.batch_search import Grid, predicted_place
from flopwatch.measure.limit import card_limit
from flopwatch.model.spec import spec_from_fields
from flopwatch.workload import Workload

_SMALL = {"d_model": 36, "n_heads": 6, "vocab_size": 101, "max_seq_len": 97}
_MODERN = {"positions": "rope", "norm": "rmsnorm", "ffn": "swiglu", "bias": False}
_MOE = {"n_experts": 4, "experts_per_token": 2, "d_ff_expert": 28}
MODELS = {
    "gpt": {"n_layers": 11},
    "grouped": {"n_layers": 9, "n_kv_heads": 2, "tied_head": True, **_MODERN},
    "windowed": {"n_layers": 17, "window": 41, "window_pattern": "LG", "n_kv_heads": 1, **_MODERN},
    "experts": {"n_layers": 10, "moe": {**_MOE, "first_dense_layers": 1}, **_MODERN},
    "alibi": {"n_layers": 8, "positions": "alibi"},
    "latent": {
        "n_layers": 5,
        "mla": {"kv_rank": 12, "d_nope": 8, "d_rope": 4, "d_value": 6, "q_rank": 10},
        "moe": {**_MOE, "n_experts": 6, "n_shared_experts": 1, "shared_gate": True, "layer_step": 2},
        **_MODERN,
    },
}
SEQ_LENS = (2, 24, 36, 41, 48, 97)
BATCHES = (1, 2, 3, 7, 12)


def model(name):
    """A small network of many layers."""
    return spec_from_fields({"name": name} | _SMALL | MODELS[name])


def choices(n, *, seed):
    """`n` choices (name of the model, choice, number of the card in the catalogue), each menu's every entry often."""
    draw = random.Random(seed)
    menus = {
        "phase": ("train", "forward", "prefill", "decode", "train"),
        "dtype": ("fp32", "bf16", "fp16"),
        "optimizer": ("adamw", "sgd", "none"),
        "recompute": ("none", "full"),
        "attention": ("auto", "flash", "math"),
        "batch": BATCHES,
        "seq_len": SEQ_LENS,
    }
    names = itertools.cycle(MODELS)
    n_cards = len(catalog_devices())
    return [
        (next(names), Choice(**{name: draw.choice(values) for name, values in menus.items()}), draw.randrange(n_cards))
        for _ in range(n)
    ]


def workload_of(choice, **changes):
    """The choice as a Workload."""
    fields = {name: getattr(choice, name) for name in choice.__struct_fields__}
    fields["recompute"] = choice.recompute if choice.phase == "train" else "none"
    return Workload(**(fields | changes))


def truth(spec, choice, card):
    """The figures of a choice on a card, None where they are not known."""
    workload = workload_of(choice)
    flops = step_flops(spec, workload)
    found = {
        "model_flops": flops.model_flops,
        "again_flops": flops.recompute.total + flops.in_kernel.total,
        "flops_per_token": flops.model_flops / workload.n_tokens,
        **dict.fromkeys(("peak_bytes", "margin_bytes")),
        **dict.fromkeys(("time_s", "tokens_per_s", "highest_mfu", "compute_bound_fraction")),
    }
    limit_bytes = None if card.memory_bytes is None else card_limit(card).limit_bytes
    if _is_even(spec, workload.batch * workload.n_queries, always=choice.phase == "decode" and choice.batch == 1):
        found["peak_bytes"] = estimate_memory(spec, workload, device_type="cuda", foreach=True).peak_bytes
        found["margin_bytes"] = None if limit_bytes is None else limit_bytes - found["peak_bytes"]
    if card.peak(choice.dtype) is not None and card.bandwidth_bytes_per_s is not None:
        best = roofline(spec, workload, datasheet_roof(card.label, choice.dtype))
        names = ("time_s", "tokens_per_s", "highest_mfu", "compute_bound_fraction")
        found |= {name: getattr(best, name) for name in names}
    return found


def largest_batch(spec, choice, limit_bytes, *, most, step=1):
    """The largest batch up to `most`, of every `step`-th, whose closed form is within the limit."""

    def predict(batch):
        workload = workload_of(choice, batch=batch)
        return estimate_memory(spec, workload, device_type="cuda", foreach=True).peak_bytes

    return step * predicted_place(predict, Grid(max_batch=most, multiple_of=step), limit_bytes)


def _is_even(spec, n_rows, *, always):
    """Whether every expert gets the same number of rows."""
    return spec.moe is None or always or n_rows * spec.moe.experts_per_token % spec.moe.n_experts == 0
