"""Each operator that torch's own counter leaves out or counts wrong: exact, by a formula written out here."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flopwatch.errors import InputError
from flopwatch.trace.api import trace
from flopwatch.trace.result import UncountedError


def _rand(*shape, device="cpu", grad=True, **more):
    return torch.randn(*shape, device=device, **more).requires_grad_(grad)


def _traced(run, **options):
    """Trace of run() and of the backward of its sum, where it needs one."""

    def step():
        result = run()
        result = result[0] if isinstance(result, tuple) else result
        if result.requires_grad:
            result.float().sum().backward()

    return trace(step, **options)


_MHA = 4 * 2 * 10 * 8 * 8 + 2 * 2 * 2 * 5 * 5 * 8  # projections; scores and values of 2 sequences of 5, width 8


def _pair(device, grad):
    return _rand(3, 7, device=device, grad=grad), _rand(7, 5, device=device, grad=grad)


def _grouped(device, dtype):
    offsets = torch.tensor([7, 16], dtype=torch.int32, device=device)
    left, right = _rand(16, 32, device=device, dtype=dtype), _rand(2, 32, 48, device=device, dtype=dtype)
    return torch._grouped_mm(left, right, offs=offsets) * 1  # its backward takes no expanded gradient


def _inferred(device):
    with torch.inference_mode():
        return nn.Linear(5, 7, device=device)(torch.ones(2, 3, 5, device=device))


def _evaluated_attention(device):
    x = torch.ones(2, 5, 8, device=device)
    with torch.no_grad():
        return nn.MultiheadAttention(8, 2, batch_first=True, device=device).eval()(x, x, x, need_weights=False)


def _evaluated_layer(device):
    with torch.no_grad():
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, device=device).eval()
        return layer(torch.ones(2, 5, 8, device=device))


def _scan(device):
    scan = pytest.importorskip("torch._higher_order_ops.scan").scan
    return scan(lambda carry, x: (carry @ x, carry + x), _rand(3, 3, device=device), _rand(4, 3, 3, device=device))


# name -> (device -> result, forward FLOPs, backward FLOPs): B, M, K, N are odd and distinct.
MATMULS = {
    "addmm_": (lambda d: _rand(3, 5, device=d, grad=False).addmm_(*_pair(d, grad=False)), 2 * 3 * 7 * 5, 0),
    "addmv": (
        lambda d: torch.addmv(_rand(3, device=d), _rand(3, 5, device=d), _rand(5, device=d)),
        2 * 3 * 5,
        2 * 3 * 5,  # the vector's gradient; the matrix's is an outer product, no matmul
    ),
    "mv": (lambda d: torch.mv(_rand(3, 5, device=d), _rand(5, device=d)), 2 * 3 * 5, 2 * 3 * 5),
    "dot": (lambda d: torch.dot(_rand(5, device=d), _rand(5, device=d)), 2 * 5, 0),
    "addbmm": (
        lambda d: torch.addbmm(_rand(3, 5, device=d), _rand(2, 3, 7, device=d), _rand(2, 7, 5, device=d)),
        2 * 2 * 3 * 7 * 5,
        4 * 2 * 3 * 7 * 5,
    ),
    "baddbmm_": (
        lambda d: _rand(2, 3, 5, device=d, grad=False).baddbmm_(
            _rand(2, 3, 7, device=d, grad=False), _rand(2, 7, 5, device=d, grad=False)
        ),
        2 * 2 * 3 * 7 * 5,
        0,
    ),
    "bilinear": (
        lambda d: F.bilinear(_rand(4, 3, device=d), _rand(4, 5, device=d), _rand(7, 3, 5, device=d)),
        2 * 4 * 7 * 3 * 5 + 2 * 4 * 7 * 5,  # [B,I] with [K,I,J], then with [B,J]
        None,
    ),
    "cdist of many rows": (
        lambda d: torch.cdist(_rand(40, 3, device=d), _rand(51, 3, device=d)),
        2 * 40 * 51 * (3 + 2),  # [P, M + 2] @ [M + 2, R]
        None,
    ),
    "cdist of few rows": (lambda d: torch.cdist(_rand(4, 3, device=d), _rand(6, 3, device=d)), 0, 0),
    "int8 @ int8": (
        lambda d: torch._int_mm(
            torch.ones(32, 16, dtype=torch.int8, device=d), torch.ones(16, 24, dtype=torch.int8, device=d)
        ),
        2 * 32 * 16 * 24,
        0,
    ),
    "int8 weights": (
        lambda d: torch._weight_int8pack_mm(
            torch.ones(32, 64, dtype=torch.bfloat16, device=d),
            torch.ones(48, 64, dtype=torch.int8, device=d),
            torch.ones(48, dtype=torch.bfloat16, device=d),
        ),
        2 * 32 * 64 * 48,
        0,
    ),
    "grouped matmul": (lambda d: _grouped(d, torch.bfloat16), 2 * 16 * 32 * 48, 4 * 16 * 32 * 48),
    "grouped matmul in fp32": (lambda d: _grouped(d, torch.float32), 2 * 16 * 32 * 48, 4 * 16 * 32 * 48),
    "depthwise convolution": (
        lambda d: nn.Conv2d(6, 6, 3, groups=6, device=d)(_rand(2, 6, 8, 9, device=d)),
        2 * 2 * 6 * 7 * 6 * 9,
        4 * 2 * 6 * 7 * 6 * 9,
    ),
    "strided convolution": (
        lambda d: nn.Conv2d(4, 6, 3, stride=2, padding=1, device=d)(_rand(2, 4, 8, 9, device=d)),
        2 * 2 * 4 * 5 * 6 * 4 * 9,
        4 * 2 * 4 * 5 * 6 * 4 * 9,
    ),
    "grouped transposed convolution": (
        lambda d: nn.ConvTranspose2d(6, 4, 3, groups=2, device=d)(_rand(2, 6, 8, 9, device=d)),
        2 * 2 * 8 * 9 * 6 * 2 * 9,
        4 * 2 * 8 * 9 * 6 * 2 * 9,
    ),
    "lstm": (
        lambda d: nn.LSTM(5, 7, num_layers=2, device=d)(_rand(3, 2, 5, device=d)),
        2 * 6 * (28 * 5 + 28 * 7) + 2 * 6 * (28 * 7 + 28 * 7),
        None,
    ),
    "gru": (lambda d: nn.GRU(5, 7, device=d)(_rand(3, 2, 5, device=d)), 2 * 6 * 21 * (5 + 7), None),
    "linear in inference mode": (_inferred, 2 * 6 * 5 * 7, 0),
    "evaluated MultiheadAttention": (_evaluated_attention, _MHA, 0),
    "evaluated TransformerEncoderLayer": (_evaluated_layer, _MHA + 2 * 2 * 10 * 8 * 16, 0),
    "scan": (_scan, 4 * 2 * 27, 4 * 4 * 27),
    "vmap": (lambda d: torch.vmap(torch.mm)(_rand(3, 4, 5, device=d), _rand(3, 5, 6, device=d)), 720, 1440),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", MATMULS)
def test_matmuls_are_counted_to_the_integer(name, device):
    """Forward and backward FLOPs by hand; nothing is left uncounted, with data and without."""
    run, forward, backward = MATMULS[name]
    forward = {"evaluated MultiheadAttention": _MHA, "evaluated TransformerEncoderLayer": _MHA + 5120}.get(
        name, forward
    )
    traced = _traced(lambda: run(device))
    assert traced.forward.total == forward
    assert backward is None or traced.backward.total == backward
    assert traced.coverage == "complete"


@pytest.mark.parametrize("to_sparse", ["to_sparse", "to_sparse_csr"])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_a_sparse_matrix_counts_its_stored_elements(to_sparse):
    """Five stored elements, each times one row of seven."""
    traced = trace(lambda: getattr(torch.eye(5), to_sparse)() @ torch.ones(5, 7))
    assert (traced.total, traced.coverage) == (2 * 5 * 7, "complete")


def test_sparse_by_sparse_is_listed_not_guessed():
    """Its work depends on where the elements lie."""
    traced = trace(lambda: torch.sparse.mm(torch.eye(5).to_sparse(), torch.eye(5).to_sparse()))
    assert [(entry.op, entry.calls) for entry in traced.uncounted] == [("aten._sparse_sparse_matmul", 1)]
    assert traced.coverage == "incomplete"


def test_fourier_transforms_are_listed_as_uncounted_other_work():
    """What an FFT does depends on the algorithm: named, and no matmul."""
    traced = trace(lambda: torch.fft.rfft(torch.ones(4, 16)))
    assert [entry.op for entry in traced.uncounted] == ["aten._fft_r2c"]
    assert (traced.total, traced.coverage) == (0, "complete for matmuls")


@pytest.mark.filterwarnings("ignore")
def test_dynamically_quantised_linear_is_counted():
    """[3, 8] by packed [5, 8]."""
    if not torch.backends.quantized.supported_engines or torch.backends.quantized.engine == "none":
        pytest.skip("this torch has no quantised kernels")
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 5)), {nn.Linear}, dtype=torch.qint8)
    assert trace(lambda: model(torch.ones(3, 8))).total == 2 * 3 * 8 * 5


def test_int4_weights_are_counted():
    """[16, 64] by packed [32, 64]."""
    pack = getattr(torch.ops.aten, "_convert_weight_to_int4pack_for_cpu", None)
    if pack is None:
        pytest.skip("this torch has no int4 kernel for a CPU")
    packed = pack(torch.ones(32, 64, dtype=torch.int32), 1)
    scales = torch.ones(2, 32, 2, dtype=torch.bfloat16)
    x = torch.ones(16, 64, dtype=torch.bfloat16)
    traced = trace(lambda: torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, 32, scales))
    assert (traced.total, traced.coverage) == (2 * 16 * 64 * 32, "complete")


@pytest.mark.parametrize(("device", "forward"), [("cpu", 2 * 27), ("meta", 2 * 2 * 27)])
def test_cond_counts_the_branch_that_runs_or_the_larger_one(device, forward):
    """With data the first branch runs (one matmul); without, the second has more work (two), and a note says so."""
    predicate = torch.tensor(True, device=device)
    x = _rand(3, 3, device=device)
    traced = _traced(lambda: torch.cond(predicate, lambda y: y @ y, lambda y: y @ y @ y, (x,)))
    assert traced.forward.total == forward
    assert traced.backward.total == 2 * forward
    assert ("torch.cond" in " ".join(traced.notes)) == (device == "meta")


def test_while_loop_counts_its_turns_or_is_listed():
    """Three turns where the counter can be read; uncounted, as a matmul, where it cannot."""
    loop = pytest.importorskip("torch._higher_order_ops").while_loop

    def run(device):
        start = (torch.tensor(0, device=device), torch.ones(3, 3, device=device))
        return loop(lambda i, _: i < 3, lambda i, x: (i + 1, x @ x), start)

    assert trace(lambda: run("cpu")).total == 3 * 2 * 27
    traced = trace(lambda: run("meta"))
    assert traced.total == 0
    assert [(entry.op, entry.looks_like_matmul) for entry in traced.uncounted] == [("while_loop", True)]


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_attention_is_counted_as_attention():
    """Queries 16, keys 16, two heads of 8: all scores, though torch's own counter raises."""
    flex = pytest.importorskip("torch.nn.attention.flex_attention").flex_attention
    x = torch.ones(1, 2, 16, 8)
    assert trace(lambda: flex(x, x, x)).total == 2 * 2 * 2 * 16 * 16 * 8


@torch.library.custom_op("flopwatch_tests::product", mutates_args=())
def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """A matmul that no counter knows."""
    return left @ right


def test_a_custom_operator_without_a_formula_is_listed():
    """Two calls, and it looks like a matmul: the strict check refuses the count with exit code 3."""
    traced = trace(lambda: [product(torch.ones(3, 4), torch.ones(4, 5)) for _ in range(2)])
    assert [(e.op, e.calls, e.looks_like_matmul) for e in traced.uncounted] == [("flopwatch_tests.product", 2, True)]
    with pytest.raises(UncountedError, match=r"flopwatch_tests\.product \(2 calls\)") as raised:
        traced.check_complete()
    assert raised.value.exit_code == 3


@pytest.mark.parametrize(
    "target", [product, torch.ops.flopwatch_tests.product, torch.ops.flopwatch_tests.product.default]
)
def test_a_user_formula_counts_and_leaves_torch_alone(target):
    """The operator, its overload or what made it can be named; torch's registry is the same afterwards."""
    from torch.utils.flop_counter import flop_registry

    before = dict(flop_registry)
    formulas = {target: lambda left, right, out_shape=None: 2 * left[0] * left[1] * right[1]}
    traced = trace(lambda: product(torch.ones(3, 4), torch.ones(4, 5)), formulas=formulas)
    assert (traced.total, traced.coverage) == (120, "complete")
    assert flop_registry == before
    traced.check_complete()


def test_a_user_formula_overrides_ours():
    """What a user says of an operator that we know counts."""
    traced = trace(lambda: torch.ones(3, 4) @ torch.ones(4, 5), formulas={torch.ops.aten.mm: lambda *_, out_shape: 7})
    assert traced.total == 7


@pytest.mark.parametrize(
    ("formulas", "message"),
    [
        ({"aten.mm": lambda: 1}, "'aten.mm' is no operator"),
        ({torch.ops.aten.mm: 7}, "the formula of aten.mm is 7"),
        ({torch.ops.aten.mm: lambda *_, out_shape: 1.5}, "the formula of aten.mm gave 1.5"),
    ],
)
def test_a_wrong_formula_is_refused(formulas, message):
    """The operator and the value are named."""
    with pytest.raises(InputError, match=message):
        trace(lambda: torch.ones(3, 4) @ torch.ones(4, 5), formulas=formulas)


def test_other_work_never_mixes_into_matmul_flops():
    """Softmax of 6 elements (4 operations each), GELU of 6, sum of 6, LayerNorm of 6 (8 each): no FLOPs."""
    x = torch.ones(2, 3)
    for run, operations in [
        (lambda: torch.softmax(x, -1), 24),
        (lambda: F.gelu(x), 6),
        (x.sum, 6),
        (lambda: F.layer_norm(x, (3,)), 48),
        (lambda: torch.cat([x, x]), 0),
    ]:
        traced = trace(run)
        assert (traced.total, traced.vector_ops, traced.coverage) == (0, operations, "complete")


def test_work_is_kept_by_dtype():
    """One matmul in bf16 under autocast and one in fp32 outside of it."""
    linear, x = nn.Linear(5, 7), torch.ones(3, 5)

    def step():
        with torch.autocast("cpu", torch.bfloat16):
            linear(x)
        linear(x)

    by_dtype = trace(step).by_dtype()
    assert (by_dtype["bf16"].forward, by_dtype["fp32"].forward) == (210, 210)


def test_bytes_are_those_of_operands_and_result():
    """[3, 5] @ [5, 7] in fp32 reads 50 numbers and writes 21; an expanded operand is read once."""
    traced = trace(lambda: torch.ones(3, 5) @ torch.ones(5, 7))
    row = traced.by_operator()["aten.mm"]
    assert (row.read_bytes, row.written_bytes) == (4 * 50, 4 * 21)
    grad = torch.ones(()).expand(3, 5)
    assert trace(lambda: torch.mm(grad, torch.ones(5, 7))).by_operator()["aten.mm"].read_bytes == 4 * (1 + 35)


def test_an_embedding_reads_the_rows_that_are_asked_for():
    """Three rows of 8 fp32 numbers and three int64 indices, not the table of 1000."""
    table, ids = nn.Embedding(1000, 8), torch.tensor([1, 2, 3])
    row = trace(lambda: table(ids)).by_operator()["aten.embedding"]
    assert (row.read_bytes, row.written_bytes) == (3 * 8 * 4 + 3 * 8, 3 * 8 * 4)
