"""What a Trace says: rows that sum to totals, and its forms for people and machines."""

import json

import pytest
import torch
from torch import nn

import flopwatch.trace.api as api
from flopwatch.trace.views import WorkRow


@pytest.fixture(scope="module")
def traced():
    """A training step of two layers with attention and an operator that nobody knows."""
    with torch.device("meta"):
        model = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), 2, enable_nested_tensor=False
        )
    return api.trace_model(model, (torch.ones(3, 5, 8),), phase="train")


@pytest.mark.parametrize("depth", [1, 2, 3, None])
def test_rows_sum_to_the_totals_at_every_depth(traced, depth):
    """By module, by operator and by dtype: every column of every view adds up to the same step."""
    views = [traced.by_module(depth), traced.by_operator(), traced.by_dtype()]
    for view in views:
        assert sum(view.values(), start=WorkRow()) == traced.sums
    assert traced.forward.total == traced.sums.forward
    assert traced.total == traced.sums.model_flops
    assert traced.hardware_total == traced.total + traced.recompute.total + traced.in_kernel.total


def test_forward_flops_are_those_of_the_layer(traced):
    """Two layers: four projections of 8 x 8, scores and values, two FFN matrices of 8 x 12, for 15 tokens."""
    layer = 2 * 15 * 4 * 64 + 4 * 3 * 5 * 5 * 8 + 2 * 2 * 15 * 8 * 12
    assert traced.by_module(2)["layers.0"].forward == layer
    assert traced.total == 3 * 2 * layer - 2 * 15 * 8 * 24  # the input of the first projection needs no gradient


def test_arithmetic_intensity_is_work_over_bytes(traced):
    """FLOPs that ran, by bytes read and written."""
    assert traced.arithmetic_intensity == traced.sums.hardware_flops / (
        traced.sums.read_bytes + traced.sums.written_bytes
    )
    assert api.trace(lambda: None).arithmetic_intensity is None


def test_the_json_form_holds_the_totals(traced):
    """One document with raw integers; totals are the sums of the modules in it."""
    data = json.loads(traced.to_json())
    assert data["flops"]["total"] == traced.total == data["flops"]["forward"] + data["flops"]["backward"]
    assert sum(row["forward"] for row in data["modules"].values()) == data["flops"]["forward"]
    assert data["coverage"] == "complete"
    assert data["uncounted"] == []


def test_tables_show_modules_totals_and_coverage(traced):
    """Markdown and HTML name each module of the depth, the total and the verdict."""
    text = traced.to_markdown(depth=2)
    assert text.splitlines()[0] == "| module | forward | backward | recompute | in-kernel | bytes moved |"
    assert "| layers.1 |" in text
    assert "Coverage: complete." in text
    page = traced._repr_html_()
    assert page.count("<tr>") == 2 + len(traced.by_module(2))
    assert "Coverage: complete" in page


def test_html_escapes_what_comes_from_the_model():
    """A module's name is text, never markup."""
    model = nn.ModuleDict({"<script>": nn.Linear(2, 3)})
    traced = api.trace(lambda: model["<script>"](torch.ones(1, 2)), model=model)
    assert "<script>" not in traced._repr_html_()


def test_operators_come_in_order_with_all_that_is_known(traced):
    """The first matmul is the first layer's projection, in fp32, reading and writing bytes."""
    first = next(call for call in traced.operators() if call.flops)
    assert (first.module, first.phase, first.dtype) == ("layers.0.self_attn", "forward", "fp32")
    assert first.flops == 2 * 15 * 8 * 24
    assert first.read_bytes == 4 * (15 * 8 + 8 * 24)
    assert first.written_bytes == 4 * 15 * 24
    assert [call.index for call in traced.operators()] == list(range(len(traced.rows)))


def test_dtensor_counts_are_this_ranks_and_never_added_to_the_meshs():
    """Two matrices over four ranks: a quarter here, the whole beside it."""
    dist = pytest.importorskip("torch.distributed")
    fake = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    dist.init_process_group("fake", rank=0, world_size=4, store=fake.FakeStore())
    try:
        model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
        parallelize_module(model, init_device_mesh("cpu", (4,)), {"0": ColwiseParallel(), "2": RowwiseParallel()})
        traced = api.trace(lambda: model(torch.ones(6, 16)).sum().backward(), model=model)
    finally:
        dist.destroy_process_group()
    whole = 2 * 2 * 6 * 16 * 32
    assert traced.forward.total == whole // 4
    assert traced.sharded_flops["forward"] == whole
    assert traced.backward.total * 4 == traced.sharded_flops["backward"] == whole * 3 // 2
    assert "this rank's own work" in traced.notes[0]
