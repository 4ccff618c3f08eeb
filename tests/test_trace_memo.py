"""The operator memo changes the time of a trace and nothing else."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from flopwatch.trace import functions, memo, recorder
from flopwatch.trace.api import trace


class Uneven(nn.Module):
    """Layers that look alike and differ: width, bias, dtype of the mask, a branch by number."""

    def __init__(self):
        super().__init__()
        widths = [6, 9, 9, 9, 4, 9]
        pairs = itertools.pairwise(widths)
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=n % 2 == 0) for n, (a, b) in enumerate(pairs))

    def forward(self, x):
        for n, layer in enumerate(self.layers):
            x = layer(x)
            x = F.gelu(x) if n % 3 else F.layer_norm(x, x.shape[-1:])
            x = F.dropout(x, 0.1 * n) + (1 if n % 2 else 1.0)
            x, _ = torch.stack((x, -x)).max(dim=0)
        return torch.cat((x, x[:, :2]), dim=-1)


def _step(device):
    with torch.device(device):
        model = Uneven()
        x = torch.ones(3, 6)
    return lambda: model(x).sum().backward(), model


def _calls(traced):
    return [
        (call.op, call.module, call.phase, call.flops, call.read_bytes, call.written_bytes)
        for call in traced.operators()
    ]


def test_a_trace_with_the_memo_is_a_trace_without_it(monkeypatch):
    """Every operator, in order, with module, phase, FLOPs and bytes; and every memory event."""
    step, model = _step("meta")
    fast = trace(step, model=model)
    monkeypatch.setattr(recorder, "call_key", lambda *_: None)
    slow = trace(step, model=model)
    assert _calls(fast) == _calls(slow)
    assert fast.memory.events == slow.memory.events
    assert [life.n_bytes for life in fast.memory.lives] == [life.n_bytes for life in slow.memory.lives]


def test_a_trace_without_data_has_the_work_of_one_with_data():
    """The same matmuls under the same modules on the CPU."""
    step, model = _step("meta")
    real_step, real_model = _step("cpu")
    without, real = trace(step, model=model), trace(real_step, model=real_model)
    assert without.forward == real.forward
    assert without.backward == real.backward


def test_results_made_from_the_memo_are_as_torch_makes_them():
    """Shapes, strides and dtypes of first and repeated calls are equal, for one result and for several."""
    x = torch.ones(4, 6, device="meta").t()
    seen = []

    def step():
        for _ in range(2):
            topk = x.topk(2, dim=0)
            seen.append(
                [(t.shape, t.stride(), t.dtype) for t in (x * 2, x.clone(), *topk, x > 0, x.to(torch.bfloat16))]
            )

    trace(step)
    assert seen[0] == seen[1]


def test_equal_numbers_of_other_types_are_other_calls():
    """1, 1.0 and True are equal as keys, and give other dtypes."""
    x = torch.ones(3, dtype=torch.int64, device="meta")
    found = []
    trace(lambda: found.extend((x + value).dtype for value in (1, 1.0, True, 1.0, 1)))
    assert found == [torch.int64, torch.float32, torch.int64, torch.float32, torch.int64]


def test_in_place_operators_return_the_tensor_itself():
    """A repeated in-place call gives the same tensor object, and autograd still sees the change."""
    x = torch.ones(3, device="meta")
    done = []
    trace(lambda: done.extend(x.mul_(2) is x for _ in range(3)))
    assert done == [True] * 3
    assert x._version == 3


def test_a_view_under_a_functional_name_is_never_repeated():
    """`unsafe_split` says nothing of it, yet its results share the input's memory."""
    x = torch.ones(6, 4, device="meta")
    memory = trace(lambda: [torch.ops.aten.unsafe_split.Tensor(x, 2) for _ in range(2)]).memory
    assert [life.n_bytes for life in memory.lives] == [6 * 4 * 4]


@pytest.mark.parametrize("tensor", [torch.eye(3).to_sparse(), torch.nn.UninitializedParameter()])
def test_what_has_no_plain_form_has_no_key(tensor):
    """Sparse tensors and subclasses are always run."""
    assert memo.call_key(object(), (tensor,), {}) is None
    assert memo.call_key(object(), ([tensor],), {}) is None


def test_two_sparse_matrices_of_one_shape_count_their_own_elements():
    """Three stored elements, then one: equal shapes are not equal work."""
    three, one = torch.eye(3).to_sparse(), torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]]).to_sparse()
    x = torch.ones(3, 5)
    assert trace(lambda: (three @ x, one @ x)).total == 2 * 3 * 5 + 2 * 1 * 5


def test_depth_costs_little():
    """Sixty layers run no more distinct operators than six: the same keys."""

    def distinct(n_layers):
        with torch.device("meta"):
            model = nn.Sequential(*(nn.Sequential(nn.Linear(5, 5), nn.GELU()) for _ in range(n_layers)))
        x = torch.ones(3, 5, device="meta")
        traced = trace(lambda: model(x).sum().backward(), model=model)
        return len({id(cost) for cost, _, _ in traced.rows}), len(traced.rows)

    (few, short), (many, long) = distinct(6), distinct(60)
    assert few == many
    assert long > 5 * short


def _fake_step():
    with FakeTensorMode() as mode:
        model, x = Uneven(), torch.ones(3, 6)

    def step():
        with mode:
            model(x).sum().backward()

    return step, model


def test_a_trace_of_fake_tensors_with_the_memo_is_one_of_the_fake_mode_alone(monkeypatch):
    """Every operator and every memory event, when results and views are made here and when the mode makes them all."""
    step, model = _fake_step()
    fast = trace(step, model=model)
    monkeypatch.setattr(recorder, "call_key", lambda *_: None)
    monkeypatch.setattr(recorder, "is_plain_fake", lambda _: False)
    slow = trace(step, model=model)
    assert _calls(fast) == _calls(slow)
    assert fast.memory.events == slow.memory.events
    assert [life.n_bytes for life in fast.memory.lives] == [life.n_bytes for life in slow.memory.lives]


def test_fake_results_and_views_are_as_the_fake_mode_makes_them():
    """Class, mode, device, shape, strides, offset and whose memory it is: without a trace, first, and repeated."""

    def made(x):
        results = (x * 2, x.clone(), *x.topk(2, dim=0), x > 0, x.to(torch.bfloat16))
        views = (
            x.t(),
            x[1:],
            x.view(4, 3, 2),
            x.detach(),
            x.unsqueeze(1).expand(4, 5, 6),
            x.transpose(0, 1)[2],
            *x.split(3),
        )
        return results, views

    def looks(tensors, x):
        return [
            (type(t), t.fake_mode, t.device, t.shape, t.stride(), t.storage_offset(), t.dtype, t.requires_grad)
            for t in tensors
        ] + [t.untyped_storage()._cdata == x.untyped_storage()._cdata for t in tensors]

    seen = []
    with FakeTensorMode():
        x = torch.ones(4, 6)
        alone = [looks(tensors, x) for tensors in made(x)]
        trace(lambda: seen.extend([looks(tensors, x) for tensors in made(x)] for _ in range(2)))
    assert seen == [alone, alone]


def test_a_small_fake_constant_keeps_its_value():
    """The step count of an optimizer is one: torch reads it, so it is counted on by torch and not by the memo."""
    with FakeTensorMode():
        count = torch.tensor(3.0)
        trace(lambda: [count.add_(1) for _ in range(2)])
        assert count.item() == 5.0


def test_a_backward_pass_asks_no_function_mode(monkeypatch):
    """To write an operator down its tensors' shapes are read: each would be a call of the mode that sees attention."""
    during = []
    ours = functions.FunctionMode.__torch_function__

    def noted(self, func, types, args=(), kwargs=None):
        if torch._C._current_graph_task_id() != -1:
            during.append(func)
        return ours(self, func, types, args, kwargs)

    monkeypatch.setattr(functions.FunctionMode, "__torch_function__", noted)
    step, model = _step("meta")
    trace(step, model=model)
    assert during == []
