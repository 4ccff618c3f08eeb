"""Off the beaten track: transforms, threads, sparse blocks, complex numbers, broadcast attention, CPU helpers."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flopwatch.errors import InputError
from flopwatch.trace.api import TraceError, trace, trace_model
from flopwatch.trace.result import UncountedError

B, D, H = 5, 11, 13
FORWARD = 2 * 2 * B * D * H


def _mlp(device="cpu"):
    return nn.Sequential(nn.Linear(D, H), nn.Tanh(), nn.Linear(H, D)).to(device)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_modules_under_torch_func_are_counted(device):
    """vmap: the same work as a batch. grad: forward, and backward without the gradient of the input."""
    model, x = _mlp(device), torch.ones(B, D, device=device)
    assert trace(lambda: torch.func.vmap(model)(x)).sums.forward == FORWARD
    parameters = dict(model.named_parameters())

    def loss(given):
        return torch.func.functional_call(model, given, (x,)).sum()

    traced = trace(lambda: torch.func.grad(loss)(parameters))
    assert (traced.sums.forward, traced.sums.backward) == (FORWARD, 2 * FORWARD - 2 * B * D * H)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_forward_derivative_leaves_nothing_uncounted():
    """jvp is made of prims, whose elementwise operators are those of aten: no entry in `uncounted`."""
    model, x = _mlp(), torch.ones(B, D)
    traced = trace(lambda: torch.func.jvp(model, (x,), (x,)))
    assert traced.coverage == "complete"
    assert traced.sums.forward >= 2 * FORWARD  # the result, and its derivative


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("queries", "keys"), [((1, 6), (2, 6)), ((2, 1), (2, 6)), ((2, 6), (1, 6)), ((2, 6), (2, 1))])
def test_attention_that_broadcasts_counts_every_pair(device, queries, keys):
    """2 sequences of 6 heads whichever side is repeated: 4 x 12 heads x 5 x 5 scores x 8; the result is as torch's."""
    query = torch.ones(*queries, 5, 8, device=device)
    key = torch.ones(*keys, 5, 8, device=device)
    shapes = []
    traced = trace(lambda: shapes.append(F.scaled_dot_product_attention(query, key, key).shape))
    assert traced.sums.forward == 4 * 12 * 5 * 5 * 8
    assert shapes == [(2, 6, 5, 8)]


@pytest.mark.filterwarnings("ignore:Sparse (CSR|CSC|BSR|BSC) tensor support")
@pytest.mark.parametrize(
    ("to_sparse", "stored"),
    [("to_sparse", 12), ("to_sparse_csr", 12), ("to_sparse_csc", 12), (lambda dense: dense.to_sparse_bsr((3, 3)), 36)],
)
def test_sparse_products_count_what_is_stored(to_sparse, stored):
    """A unit matrix of 12: its diagonal, or whole blocks of 3 x 3, times a vector and times 5 columns."""
    convert = (lambda dense: getattr(dense, to_sparse)()) if isinstance(to_sparse, str) else to_sparse
    matrix = convert(torch.eye(12))
    assert trace(lambda: matrix @ torch.ones(12)).sums.forward == 2 * stored
    assert trace(lambda: matrix @ torch.ones(12, 5)).sums.forward == 2 * stored * 5


def test_a_vector_as_the_weight_of_a_linear_is_one_column():
    """[7, 11] by [11], also in inference mode, where `linear` comes whole."""
    with torch.inference_mode():
        assert trace(lambda: F.linear(torch.ones(7, 11), torch.ones(11))).sums.forward == 2 * 7 * 11


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_complex_multiply_add_is_four_real_ones(device):
    """8 FLOPs, and the trace says so."""
    left, right = (torch.ones(s, dtype=torch.complex64, device=device) for s in ((7, 11), (11, 13)))
    traced = trace(lambda: left @ right)
    assert traced.sums.forward == 8 * 7 * 11 * 13
    assert any("8 FLOPs" in note for note in traced.notes)


def test_work_in_another_thread_is_never_a_silent_zero():
    """torch's modes do not reach it: one entry for the outermost module, and the strict check refuses."""
    model = _mlp()

    def step():
        thread = threading.Thread(target=model, args=(torch.ones(B, D),))
        thread.start()
        thread.join()
        model(torch.ones(B, D))

    traced = trace(step)
    assert [(e.op, e.calls) for e in traced.uncounted] == [("Sequential in another thread", 1)]
    assert traced.sums.forward == FORWARD
    with pytest.raises(UncountedError, match="another thread"):
        traced.check_complete()


def test_a_thread_without_a_module_is_noted():
    """No hook sees a bare matmul there; `Thread.start` is torch's and Python's own again afterwards."""
    start = threading.Thread.start

    def step():
        thread = threading.Thread(target=torch.mm, args=(torch.ones(3, 4), torch.ones(4, 5)))
        thread.start()
        thread.join()

    assert any("started a thread" in note for note in trace(step).notes)
    assert threading.Thread.start is start


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated, and says so
def test_an_optimized_script_is_counted_or_listed():
    """Linears pass the dispatcher; convolutions in oneDNN's layout do not."""
    linear = torch.jit.optimize_for_inference(torch.jit.script(_mlp().eval()))
    convolution = torch.jit.optimize_for_inference(torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3)).eval()))
    with torch.no_grad():
        assert trace(lambda: linear(torch.ones(B, D))).sums.forward == FORWARD
        traced = trace(lambda: convolution(torch.ones(2, 3, 9, 9)))
    assert traced.sums.forward == 2 * 2 * 49 * 108 or traced.coverage == "incomplete"


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_attention_over_jagged_sequences_is_listed():
    """torch pads and takes it apart where no shape can be read: named, never a traceback."""
    x = torch.nested.nested_tensor([torch.ones(3, 2, 8), torch.ones(5, 2, 8)], layout=torch.jagged).transpose(1, 2)
    traced = trace(lambda: F.scaled_dot_product_attention(x, x, x))
    assert traced.coverage == "incomplete" or traced.sums.forward == 4 * 2 * (9 + 25) * 8


@torch.library.custom_op("flopwatch_tests::squeeze_excite", mutates_args=())
def fused(x: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Two matmuls in one operator, whose name says nothing."""
    return torch.relu(x @ up) @ down


@torch.library.custom_op("flopwatch_tests::scale", mutates_args=())
def scale(x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Elementwise."""
    return x * by


def test_an_unknown_operator_that_could_contract_is_taken_for_a_matmul():
    """No single pair of its inputs gives the result; an elementwise one is listed as other work."""
    x = torch.ones(B, D)
    traced = trace(lambda: fused(x, torch.ones(D, H), torch.ones(H, D)))
    assert [entry.looks_like_matmul for entry in traced.uncounted] == [True]
    traced = trace(lambda: scale(x, torch.ones(B, D)))
    assert [entry.looks_like_matmul for entry in traced.uncounted] == [False]


class Helpers(nn.Module):
    """What users write: a tensor that is no buffer, and a mask made on the CPU."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.scale = torch.ones(4)

    def forward(self, x):
        scores = x @ x.transpose(1, 2)
        mask = torch.triu(torch.ones(3, 3), diagonal=1).bool()
        return self.linear(scores.masked_fill(mask, -torch.inf).softmax(-1) @ x) * self.scale


@pytest.mark.parametrize("phase", ["forward", "train"])
def test_tensors_that_a_model_makes_on_the_cpu_are_no_obstacle(phase):
    """Meta refuses the mixture; fake tensors count it: scores, values, the linear, and its weight's gradient."""
    traced = trace_model(Helpers(), (torch.ones(2, 3, 4),), phase=phase)
    linear = 2 * 2 * 3 * 4 * 4
    assert (traced.sums.forward, traced.sums.backward) == (
        2 * (2 * 2 * 3 * 3 * 4) + linear,
        linear if phase == "train" else 0,
    )


class ToNumpy(nn.Module):
    """Leaves torch in the middle."""

    def forward(self, x):
        return torch.from_numpy(x.numpy()) @ x


def test_what_needs_data_is_refused_in_one_line():
    """numpy, and a lazy module's shapes, which nobody knows before its first call."""
    with pytest.raises(TraceError, match=r"has no data .*test_trace_out_of_the_way\.py"):
        trace_model(ToNumpy(), (torch.ones(3, 3),))
    with pytest.raises(InputError, match="weight has no shape yet"):
        trace_model(nn.LazyLinear(4), (torch.ones(3, 3),))


class Flexible(nn.Module):
    """Attention that torch runs on real devices only."""

    def forward(self, x):
        return pytest.importorskip("torch.nn.attention.flex_attention").flex_attention(x, x, x)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_an_operator_that_refuses_meta_is_counted_on_fake_tensors():
    """16 x 16 scores of two heads of 8, and the values."""
    traced = trace_model(Flexible(), (torch.ones(1, 2, 16, 8),))
    assert (traced.sums.forward, traced.coverage) == (2 * 2 * 2 * 16 * 16 * 8, "complete")
