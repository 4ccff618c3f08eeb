"""The roofline: time by operator, what binds it, the batch that turns it, the command; on numbers worked by hand."""

import json
import subprocess
import sys

import pytest

from flopwatch.api.roofline import datasheet_roof
from flopwatch.compare.roofline import Roof, compute_bound_batch, roofline, roofline_of_ops
from flopwatch.cost.traffic import Op
from flopwatch.errors import InputError, SpecError
from flopwatch.model.load import load_spec
from flopwatch.model.spec import ModelSpec
from flopwatch.workload import Workload

TINY = ModelSpec(name="odd", n_layers=3, d_model=40, n_heads=5, vocab_size=211, max_seq_len=64)


def _roof(*, peak=100e9, bandwidth=10e9, cache=0, dtype="fp32"):
    return Roof(
        device="paper",
        kind="user",
        flops_per_s={dtype: peak},
        bandwidth_bytes_per_s=bandwidth,
        peak_source="by hand",
        bandwidth_source="by hand",
        cache_bytes=cache,
    )


def _of(*ops, roof=None, model_flops=0):
    return roofline_of_ops(
        ops,
        model="m",
        workload=Workload(batch=2, seq_len=5),
        roof=roof or _roof(),
        model_flops=model_flops,
        compute_bound_batch=None,
        source="closed-form",
    )


def _op(part, **amounts):
    return Op(part=part, stage="forward", dtype="fp32", calls=amounts.pop("calls", 1), **amounts)


def test_each_operator_takes_the_longer_of_compute_and_memory():
    """100 GFLOP/s and 10 GB/s: 5 GFLOPs take 50 ms; 1 GB takes 100 ms; together 150 ms, a third of it compute."""
    found = _of(
        _op("dense", flops=5 * 10**9, cold_bytes=10**8),
        _op("thin", flops=10**9, warm_bytes=10**9),
        model_flops=6 * 10**9,
    )
    assert [(row.operator, row.bound, row.time_s) for row in found.operators] == [
        ("thin", "memory", pytest.approx(0.1)),
        ("dense", "compute", pytest.approx(0.05)),
    ]
    assert found.time_s == pytest.approx(0.15)
    assert found.compute_bound_fraction == pytest.approx(1 / 3)
    assert found.highest_mfu == pytest.approx(6e9 / 0.15 / 100e9)
    assert found.tokens_per_s == pytest.approx(10 / 0.15)


def test_activations_that_fit_in_the_cache_are_not_loaded():
    """Four calls of 1 MB each fit in 1 MB; weights never count as found."""
    ops = [_op("a", calls=4, warm_bytes=4 * 10**6), _op("w", calls=4, cold_bytes=4 * 10**6)]
    found = {row.operator: row for row in _of(*ops, roof=_roof(cache=10**6)).operators}
    assert (found["a"].bytes, found["a"].cached_bytes, found["a"].time_s) == (0, 4 * 10**6, 0)
    assert found["w"].bytes == 4 * 10**6
    found = {row.operator: row for row in _of(*ops, roof=_roof(cache=10**6 - 1)).operators}
    assert found["a"].bytes == 4 * 10**6


def test_rows_of_one_operator_and_bound_are_one_row():
    """Each is judged at its own size, then they are added up."""
    found = _of(_op("mm", flops=10**9), _op("mm", flops=3 * 10**9, calls=2), _op("mm", warm_bytes=10**9))
    assert [(row.bound, row.calls, row.flops) for row in found.operators] == [
        ("memory", 1, 0),
        ("compute", 3, 4 * 10**9),
    ]


def test_the_whole_is_the_sum_of_its_operators():
    """No time outside the rows."""
    found = roofline(TINY, Workload(batch=3, seq_len=17, phase="train"), _roof())
    assert found.time_s == pytest.approx(sum(row.time_s for row in found.operators))
    assert {row.stage for row in found.operators} == {"forward", "backward", "optimizer"}


def test_the_known_rule_for_the_critical_batch_of_a_tpu_v5e():
    """Scaling book: in bf16 a v5e turns compute-bound at B > 197e12 / 819e9 = 240 tokens, for large matrices."""
    wide = ModelSpec(name="wide", n_layers=1, d_model=1 << 17, n_heads=1 << 10, d_ff=1 << 17, vocab_size=1 << 17)
    roof = datasheet_roof("TPU v5e", "bf16")
    roof = Roof(**{field: getattr(roof, field) for field in roof.__struct_fields__} | {"cache_bytes": 0})
    found = compute_bound_batch(wide, Workload(seq_len=9, phase="decode", dtype="bf16"), roof)
    assert found == pytest.approx(240.5, rel=0.01)


def test_the_critical_batch_is_the_smallest_that_is_bound_by_compute():
    """One less leaves a layer bound by memory; 8 rows a sequence need an eighth of the batch."""
    spec = ModelSpec(name="one", n_layers=1, d_model=1024, n_heads=8, vocab_size=1024)
    roof = _roof(peak=400e9, bandwidth=20e9)
    # square: R rows take 2 R d^2 / 400e9 s to compute, (4 d^2 + 8 R d) / 20e9 s to load: R >= 4 d / (2 d / 20 - 8)
    n_rows = 4 * 1024 / (2 * 1024 / 20 - 8)
    assert compute_bound_batch(spec, Workload(seq_len=9, phase="decode"), roof) == int(n_rows) + 1
    assert compute_bound_batch(spec, Workload(seq_len=8), roof) == -(-(int(n_rows) + 1) // 8)


def test_thin_matrices_are_bound_by_memory_at_any_batch():
    """d = 40 on a device with 1000 FLOPs a byte: the activations alone take longer."""
    assert compute_bound_batch(TINY, Workload(seq_len=17), _roof(peak=1e13, bandwidth=1e10)) is None


def test_a_dtype_without_a_peak_and_a_sequence_too_long_are_refused():
    """The roof has fp32 only; the context is 64."""
    with pytest.raises(InputError, match="no bf16 peak of paper is known"):
        roofline(TINY, Workload(seq_len=17, dtype="bf16"), _roof())
    with pytest.raises(SpecError, match="longer than the context"):
        roofline(TINY, Workload(seq_len=65), _roof())


def test_a_cards_roof_is_its_datasheet_or_what_the_user_knows_better():
    """A100 SXM4 80GB: 312 TFLOP/s, 2039 GB/s, 40 MiB of L2."""
    roof = datasheet_roof("A100 SXM4 80GB", "bf16")
    assert (roof.flops_per_s, roof.bandwidth_bytes_per_s, roof.cache_bytes) == ({"bf16": 312e12}, 2039e9, 40 << 20)
    own = datasheet_roof("A100 SXM4 80GB", "bf16", peak_tflops=250.0, bandwidth_gb_per_s=1700.0)
    assert (own.kind, own.flops_per_s, own.bandwidth_bytes_per_s) == ("user", {"bf16": 250e12}, 1700e9)
    with pytest.raises(InputError, match="T4 PCIe has no bf16 matmul peak"):
        datasheet_roof("T4", "bf16")
    with pytest.raises(InputError, match="no bandwidth of A100"):
        datasheet_roof("A100", "bf16")


def test_decoding_is_bound_by_memory_and_training_by_compute():
    """gpt2-xl on an A100 80GB at batch 1: a token must read 1.56 G weights (3.1 GB): at most 655 tokens/s."""
    roof = datasheet_roof("A100 SXM4 80GB", "bf16")
    spec = load_spec("gpt2-xl")
    decode = roofline(spec, Workload(batch=1, seq_len=128, phase="decode", dtype="bf16"), roof)
    assert decode.compute_bound_fraction == 0
    assert decode.tokens_per_s == pytest.approx(2039e9 / (2 * 1.5576e9), rel=0.03)
    train = roofline(spec, Workload(batch=16, seq_len=1024, phase="train", dtype="bf16"), roof)
    assert train.compute_bound_fraction > 0.8
    assert 0.7 < train.highest_mfu < 1.0


def _command(*arguments):
    code = "import sys; from flopwatch.cli import run; code = run(sys.argv[1:])\n"
    code += "print('torch' in sys.modules, file=sys.stderr); sys.exit(code)"
    return subprocess.run([sys.executable, "-c", code, "roofline", *arguments], capture_output=True, text=True)


def test_the_command_needs_no_torch_for_a_card_and_prints_one_record():
    """One result with its operators, and no other output."""
    done = _command("gpt-small", "--device", "A100 SXM4 80GB", "--batch", "8", "--json")
    record = json.loads(done.stdout)
    (result,) = record["results"]
    assert (record["kind"], result["batch"], result["seq_len"], result["dtype"]) == ("roofline", 8, 1024, "bf16")
    assert result["peak_flops_per_s"] == 312e12
    assert done.stderr.splitlines() == ["False"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "H100"], "name the variant"),
        (["--device", "A100 SXM4 80GB", "--peak-tflops", "-1"], "--peak-tflops -1 is not a positive rate"),
        (["--device", "A100 SXM4 80GB", "--phase", "decode", "--optimizer", "sgd"], "no meaning in phase decode"),
        (["--device", "A100 SXM4 80GB", "--seq", "4096"], "longer than the context"),
        (["--device", "tpu"], "no device is called 'tpu'"),
    ],
)
def test_bad_requests_end_with_2_and_one_line(arguments, said):
    """What cannot be honoured is refused with its reason."""
    done = _command("gpt-small", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_trace_moves_no_less_than_the_closed_form():
    """The real operators move at least the compulsory bytes, so the time is no shorter; their FLOPs are the same."""
    from flopwatch.api.roofline import roofline_by_trace

    work = Workload(batch=3, seq_len=33, phase="train", attention="math")
    closed, traced = roofline(TINY, work, _roof()), roofline_by_trace(TINY, work, roof=_roof())
    assert traced.time_s > closed.time_s
    assert sum(row.flops for row in traced.operators) == sum(row.flops for row in closed.operators)
