"""Networks and truths that the memory tests share."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools import MemTracker

from flopwatch.model.spec import spec_from_fields
from flopwatch.probe.tensor_peak import tensor_peak
from flopwatch.reference.model import DTYPES, build_model
from flopwatch.reference.step import build_step, make_step
from flopwatch.trace.memory_view import fill
from flopwatch.workload import Workload


def small_spec(**fields):
    """Two layers of width 36, six heads, 101 words, 19 tokens."""
    return spec_from_fields({"n_layers": 2, "d_model": 36, "n_heads": 6, "vocab_size": 101, "max_seq_len": 19} | fields)


SPECS = {
    "gpt": {},
    "tied": {"tied_head": True},
    "grouped": {"n_kv_heads": 2, "positions": "rope", "ffn": "swiglu", "norm": "rmsnorm", "bias": False},
    "windows": {"window": 5, "window_pattern": "LG", "positions": "rope"},
    "alibi": {"positions": "alibi", "window": 4},
    "parallel": {"parallel_block": True, "norms_per_layer": 1},
    "experts": {
        "positions": "rope",
        "moe": {
            "n_experts": 5,
            "experts_per_token": 2,
            "d_ff_expert": 28,
            "n_shared_experts": 1,
            "shared_gate": True,
            "first_dense_layers": 1,
        },
    },
    "latent": {
        "positions": "rope",
        "bias": False,
        "mla": {"kv_rank": 12, "d_nope": 8, "d_rope": 4, "d_value": 6, "q_rank": 10},
    },
    "narrow": {"d_embed": 20},
    "normed": {"qk_norm": "full", "norms_per_layer": 4},
    "normed heads": {"qk_norm": "per_head", "positions": "rope", "norm": "rmsnorm"},
}

STEPS = {
    "forward": {"phase": "forward"},
    "train": {"phase": "train"},
    "forward elementary": {"phase": "forward", "ops": "elementary"},
    "train elementary": {"phase": "train", "ops": "elementary"},
    "checkpointed bf16": {"phase": "train", "recompute": "full", "dtype": "bf16"},
    "math attention": {"phase": "train", "attention": "math"},
    "prefill": {"phase": "prefill"},
    "decode": {"phase": "decode"},
}


def small_workload(step: str, **fields):
    """Five sequences of 17 tokens, three for elementary operators."""
    return Workload(**({"batch": 5, "seq_len": 17} | STEPS[step] | fields))


def real_peak_bytes(spec, workload, *, n_steps=2):
    """The most bytes that torch's allocator reports at once in a real run: tensors and kernels' temporaries."""
    with tensor_peak() as counted:
        step = build_step(spec, workload)
        for _ in range(n_steps):
            step()
    return counted.peak_bytes


def memtracker_peak_bytes(spec, workload, *, n_steps=2):
    """The peak that torch's own MemTracker sees of the same steps on fake tensors."""
    dtype = torch.float32 if workload.precision == "autocast" else DTYPES[workload.dtype]
    model = build_model(
        spec,
        ops=workload.ops,
        attention=workload.attention,
        recompute=workload.recompute,
        device="meta",
        dtype=dtype,
    )
    with FakeTensorMode():
        fill(model)
        tracker = MemTracker()
        tracker.track_external(model)
        with tracker:
            step = make_step(model, workload)
            for _ in range(n_steps):
                step()
                tracker.reset_mod_stats()
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
