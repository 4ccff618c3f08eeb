"""Inputs of any form, models of Hugging Face, and models that read values."""

import dataclasses

import pytest
import torch
from torch import nn

from flopwatch.errors import InputError
from flopwatch.trace.api import TraceError, trace, trace_model

B, D, H = 3, 5, 7


@dataclasses.dataclass
class Options:
    """No tensor at all."""

    scale: float


class Nested(nn.Module):
    """Takes a tensor, a structure of tensors, an object and a flag."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(D, H)

    def forward(self, x, more, *, options, name="plain"):
        assert name == "named"
        y = self.linear(x) + self.linear(more["pair"][0]) * options.scale
        return {"result": (y, more["number"]), "none": None}


@pytest.mark.parametrize("tensors", ["auto", "meta", "fake", "real"])
@pytest.mark.parametrize("phase", ["forward", "train"])
def test_inputs_may_be_any_structure(tensors, phase):
    """Two calls of one linear, whatever holds the tensors; backward gives its weight's gradient twice."""
    more = {"pair": (torch.ones(B, D), None), "number": 3}
    traced = trace_model(
        Nested(), (torch.ones(B, D), more), {"options": Options(2.0), "name": "named"}, phase=phase, tensors=tensors
    )
    one = 2 * B * D * H
    assert (traced.forward.total, traced.backward.total) == (2 * one, 2 * one if phase == "train" else 0)


class Reader(nn.Module):
    """Reads a value of its input."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(D, H)

    def forward(self, x):
        if x.sum().item() > 0:
            x = self.linear(x)
        return self.linear(x) if x.shape[-1] == D else x


@pytest.mark.parametrize("tensors", ["auto", "meta", "fake"])
def test_a_model_that_reads_a_value_says_in_which_line(tensors):
    """The user's own line is named, with the way out; on real tensors it works."""
    with pytest.raises(
        TraceError, match=r"test_trace_inputs\.py, line \d+: if x\.sum\(\)\.item\(\) > 0.*tensors='real'"
    ):
        trace_model(Reader(), (torch.ones(B, D),), tensors=tensors)
    assert trace_model(Reader(), (torch.ones(B, D),), tensors="real").total == 2 * B * D * H


def test_a_value_of_a_small_constant_is_read_in_fake_tensors():
    """`auto` goes on to fake tensors, which keep constants that the model makes itself."""

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(D, H)

        def forward(self, x):
            return self.linear(x) * torch.tensor(3, device=x.device).item()

    assert trace_model(Constant(), (torch.ones(B, D),)).total == 2 * B * D * H


def test_a_step_that_reads_a_value_on_meta_says_in_which_line():
    """The same for the user's own step."""
    x = torch.ones(2, device="meta")
    with pytest.raises(
        TraceError, match=r"reads a value.*trace_inputs\.py, line \d+: trace\(lambda: float\(x\.sum\(\)\)\)"
    ):
        trace(lambda: float(x.sum()))


def test_an_error_of_the_users_own_is_raised_as_it_is():
    """A wrong shape is torch's error, not ours."""
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        trace_model(nn.Linear(D, H), (torch.ones(B, H),), tensors="real")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: trace_model(nn.Linear(D, H), (torch.ones(B, D),), phase="decode"), "phase='decode' is not one of"),
        (lambda: trace_model(torch.relu, (torch.ones(B, D),)), "is no nn.Module"),
        (
            lambda: trace_model(nn.Linear(D, H).requires_grad_(False), (torch.ones(B, D),), phase="train"),
            "nothing in the model's output needs a gradient",
        ),
    ],
)
def test_what_cannot_be_traced_is_refused(call, message):
    """The value, and the way out."""
    with pytest.raises(InputError, match=message):
        call()


def test_tied_parameters_stay_tied_without_data():
    """An embedding that is the head as well gets the gradients of both, once."""
    model = nn.ModuleDict({"tokens": nn.Embedding(11, D), "head": nn.Linear(D, 11, bias=False)})
    model["head"].weight = model["tokens"].weight

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = model

        def forward(self, ids):
            return self.parts["head"](self.parts["tokens"](ids))

    ids = torch.zeros(B, 2, dtype=torch.int64)
    traced = trace_model(Tied(), (ids,), phase="train")
    assert (traced.forward.total, traced.backward.total) == (2 * 6 * D * 11, 4 * 6 * D * 11)
    weights = [life for life in traced.memory.lives if life.category == "parameter"]
    assert [life.n_bytes for life in weights] == [4 * 11 * D]


transformers = pytest.importorskip("transformers")
SIZES = {"vocab_size": 101, "num_hidden_layers": 2, "hidden_size": 24, "num_attention_heads": 4}
LLAMA = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 40}
KINDS = {
    "gpt2": ({"vocab_size": 101, "n_layer": 2, "n_embd": 24, "n_head": 4, "n_positions": 32}, 2 * 12 * 24**2),
    "llama": (LLAMA, 2 * (2 * 24**2 + 2 * 24 * 12 + 3 * 24 * 40)),
    # two experts of five a token, and a router
    "mixtral": (LLAMA | {"num_local_experts": 5}, 2 * (2 * 24**2 + 2 * 24 * 12 + 2 * 3 * 24 * 40 + 24 * 5)),
}


def _hugging_face(kind, device="meta"):
    config = transformers.CONFIG_MAPPING[kind](**KINDS[kind][0])
    with torch.device(device):
        return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("tensors", ["meta", "fake", "real"])
@pytest.mark.parametrize("kind", KINDS)
def test_models_of_hugging_face_count_the_same_without_data_and_with(kind, tensors):
    """2RW + attention + head forward, twice that backward, from the output's own loss."""
    model = _hugging_face(kind, "cpu" if tensors == "real" else "meta")
    ids = torch.ones(3, 17, dtype=torch.int64)
    traced = trace_model(model, (), {"input_ids": ids, "labels": ids}, phase="train", tensors=tensors)
    rows = 3 * 17
    forward = 2 * rows * KINDS[kind][1] + 2 * (4 * rows * 17 * 24) + 2 * rows * 24 * 101
    assert (traced.forward.total, traced.backward.total) == (forward, 2 * forward)
    assert traced.coverage == "complete"


def test_generation_is_traced_as_it_runs():
    """Five tokens in, four out: one prefill and three decodes, logits of the last token each time."""
    model = _hugging_face("llama", "cpu").eval()
    ids = torch.ones(2, 5, dtype=torch.int64)
    traced = trace(
        lambda: model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0), model=model
    )
    attended = [(5, 5), (1, 6), (1, 7), (1, 8)]
    layers = 2 * 2 * (5 + 3) * KINDS["llama"][1] + sum(2 * 4 * 2 * q * k * 24 for q, k in attended)
    assert traced.total == layers + 4 * 2 * 2 * 24 * 101
