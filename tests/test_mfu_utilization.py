"""MFU and HFU from FLOPs, time and peaks: weighted by dtype, unknown with a reason, above 100 % with causes."""

import pytest

from flopwatch.api.mfu import mfu, mfu_under
from flopwatch.compare.mfu import Run, find_ceiling
from flopwatch.compare.throughput import Throughput
from flopwatch.compare.utilization import Ceiling, RunDTypes, run_dtypes, utilization_rows, utilization_warnings
from flopwatch.cost.convention import convention_names, find_convention
from flopwatch.cost.flops import StepFlops
from flopwatch.errors import InputError
from flopwatch.model.spec import ModelSpec
from flopwatch.tally import Tally

STEP = StepFlops(
    forward=Tally({"layers.ffn.up": 300, "layers.attention.scores": 50, "head": 70}),
    backward=Tally({"layers.ffn.up": 600, "layers.attention.scores": 100, "head": 140}),
    recompute=Tally({"layers.ffn.up": 300}),
    in_kernel=Tally({"layers.attention.scores": 50}),
)
BF16 = RunDTypes(layers="bf16", attention="bf16", head="bf16")
SMALL = ModelSpec(n_layers=2, d_model=32, n_heads=4, vocab_size=97, max_seq_len=64)


def rows_of(*ceilings, dtypes=BF16, n_devices=1):
    """The rows of STEP in half a second."""
    return utilization_rows(
        STEP, step_s=0.5, dtypes=dtypes, convention="matmul", ceilings=ceilings, n_devices=n_devices
    )


def ceiling(kind="datasheet", **flops_per_s):
    """A ceiling with these peaks."""
    return Ceiling(kind=kind, flops_per_s=flops_per_s, sources={dtype: f"X {dtype} dense" for dtype in flops_per_s})


def test_mfu_leaves_out_what_is_computed_again_and_hfu_has_it():
    """1260 FLOPs the task needs and 1610 the hardware did, in half a second, of 10,000 FLOP/s."""
    mfu_row, hfu_row = rows_of(ceiling(bf16=10_000.0))
    assert (mfu_row.name, mfu_row.flops_per_s, mfu_row.fraction) == ("mfu", 2520, pytest.approx(0.2520))
    assert (hfu_row.name, hfu_row.flops_per_s, hfu_row.fraction) == ("hfu", 3220, pytest.approx(0.3220))
    assert (mfu_row.peak_flops_per_s, mfu_row.peak_source, mfu_row.reason) == (10_000, "X bf16 dense", None)


def test_the_rate_is_each_devices_own():
    """Four devices share the step."""
    mfu_row, _ = rows_of(ceiling(bf16=10_000.0), n_devices=4)
    assert (mfu_row.flops_per_s, mfu_row.fraction) == (630, pytest.approx(0.0630))


def test_a_run_of_two_dtypes_is_measured_against_its_ideal_time():
    """900 FLOPs at 20,000 and 360 at 10,000 FLOP/s take 0.081 s at best; the step took 0.5 s."""
    dtypes = RunDTypes(layers="fp8", attention="bf16", head="bf16")
    mfu_row, hfu_row = rows_of(ceiling(bf16=10_000.0, fp8=20_000.0), dtypes=dtypes)
    assert mfu_row.fraction == pytest.approx(0.081 / 0.5)
    assert mfu_row.peak_flops_per_s == pytest.approx(1260 / 0.081)
    assert mfu_row.fraction == pytest.approx(mfu_row.flops_per_s / mfu_row.peak_flops_per_s)
    assert mfu_row.peak_source == "X fp8 dense and X bf16 dense, weighted by FLOPs"
    assert hfu_row.fraction == pytest.approx((1200 / 20_000 + 410 / 10_000) / 0.5)


def test_every_ceiling_gets_its_rows_and_an_unknown_one_its_reason():
    """A missing peak is no zero and no other peak."""
    unknown = Ceiling(kind="datasheet", reason="nobody knows; give --peak-tflops")
    rows = rows_of(unknown, ceiling("measured", bf16=8_000.0))
    assert [(row.name, row.peak_kind, row.fraction) for row in rows] == [
        ("mfu", "datasheet", None),
        ("hfu", "datasheet", None),
        ("mfu", "measured", pytest.approx(0.315)),
        ("hfu", "measured", pytest.approx(0.4025)),
    ]
    assert [row.reason for row in rows] == [unknown.reason] * 2 + [None] * 2
    assert rows[0].flops_per_s == 2520


def test_one_missing_dtype_of_two_makes_the_share_unknown():
    """The bf16 peak does not stand in for the fp8 one."""
    dtypes = RunDTypes(layers="fp8", attention="bf16", head="bf16")
    assert {row.fraction for row in rows_of(ceiling(bf16=10_000.0), dtypes=dtypes)} == {None}


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("datasheet", "GeForce cards reach 108 to 121 %"),
        ("measured", "measure it again"),
        ("user", "a peak of another dtype or device"),
        ("notebook", "use the datasheet's"),
    ],
)
def test_above_100_percent_is_a_warning_with_its_usual_causes(kind, cause):
    """Printed as it is, and said; at 100 % and below nothing is said."""
    rows = rows_of(ceiling(kind, bf16=2_000.0), ceiling(kind, bf16=5_000.0))
    warnings = utilization_warnings(rows)
    assert len(warnings) == 2
    assert warnings[0].startswith("MFU 126.0 % of 2.000 kFLOP/s (matmul) is above 100 %: ")
    assert warnings[1].startswith("HFU 161.0 % of 2.000 kFLOP/s (matmul) is above 100 %: ")
    assert cause in warnings[0]


def test_hfu_that_is_mfu_is_not_warned_of_twice():
    """Without recomputation they are one figure."""
    result = mfu(SMALL, seq_len=32, tokens_per_s=1e9, peak_tflops=1)
    assert result.mfu == result.hfu > 1
    assert len(utilization_warnings(result.utilization)) == 1


def test_only_a_weighted_convention_takes_attention_and_head_to_be_bf16():
    """llmq: 8-bit matmuls, attention and head in bf16; what the run says wins."""
    weighted, single = find_convention("llmq"), find_convention("matmul")
    assert run_dtypes("fp8", weighted) == RunDTypes(layers="fp8", attention="bf16", head="bf16")
    assert run_dtypes("fp16", weighted) == RunDTypes(layers="fp16", attention="fp16", head="fp16")
    assert run_dtypes("fp8", single) == RunDTypes(layers="fp8", attention="fp8", head="fp8")
    assert run_dtypes("fp8", weighted, head="fp8").head == "fp8"
    assert run_dtypes("fp8", single, attention="bf16").attention == "bf16"


def test_a_datasheet_peak_that_is_missing_for_one_dtype_is_named():
    """An A100 has no FP8 units: the rates stand, the share is n/a."""
    result = mfu(SMALL, seq_len=32, tokens_per_s=1e6, device="NVIDIA A100-SXM4-40GB", dtype="fp8")
    assert result.mfu is None
    assert result.hfu is None
    assert "no fp8 matmul peak" in result.reason
    assert result.model_tflops_per_device > 0


def test_the_users_peak_wins_over_the_device_and_says_so():
    """312 TFLOP/s of the datasheet is not asked."""
    result = mfu(SMALL, seq_len=32, tokens_per_s=1e6, device="NVIDIA A100-SXM4-40GB", peak_tflops=100)
    assert (result.peak_flops_per_s, result.peak_kind) == (100e12, "user")
    assert "given with --peak-tflops" in result.peak_source


@pytest.mark.parametrize(
    ("peaks", "message"),
    [
        ({"bf16": 0.0}, "not above zero"),
        ({"bf16": float("nan")}, "not above zero"),
        ({"bf16": float("inf")}, "not above zero"),
        ({"bf16": 312e12}, "it is in TFLOP/s: is 312 meant"),
        ({"bf17": 312.0}, "'bf17' is no dtype"),
    ],
)
def test_a_peak_that_cannot_be_one_is_refused(peaks, message):
    """A slip of a unit would be an absurd MFU."""
    run = Run(spec=SMALL, seq_len=32, throughput=Throughput(tokens_per_s=1.0))
    with pytest.raises(InputError, match=message):
        find_ceiling(run, peak_tflops=peaks)


def test_all_conventions_stand_in_one_list_with_their_spread():
    """Where a convention does not know the recomputation, its HFU is n/a and its MFU stands."""
    run = Run(spec=SMALL, seq_len=32, throughput=Throughput(tokens_per_s=1e6), recompute="partial")
    results = mfu_under(run, convention_names(), peak_tflops={"bf16": 1.0})
    assert [result.convention for result in results] == convention_names()
    known = {result.convention for result in results if result.hfu is not None}
    assert known == {"palm"}
    by_name = {result.convention: result for result in results}
    assert by_name["matmul"].mfu is not None
    assert by_name["matmul"].hfu_reason == "matmul does not say what recompute partial costs"
    assert by_name["matmul"].details["times_default"] == 1
    assert by_name["notebook"].details["times_default"] < 1 < by_name["6n"].details["times_default"]
    nonsense = Run(spec=SMALL, seq_len=32, throughput=Throughput(tokens_per_s=1e6), recompute="everything")
    with pytest.raises(InputError, match="no convention knows recompute everything; there are none, full, "):
        mfu_under(nonsense, convention_names())


def test_what_a_convention_does_not_tell_is_noted():
    """Windows counted in full, a tied table taken away, recomputation taken for granted, 8 bits for everything."""
    windowed = ModelSpec(n_layers=3, d_model=32, n_heads=4, vocab_size=97, max_seq_len=64, window=8, tied_head=True)

    def notes(convention, **more):
        return " ".join(mfu(windowed, seq_len=32, tokens_per_s=1.0, convention=convention, **more).notes)

    assert "counts all 32 keys in the 3 layers that see only 8: matmul-window-exact" in notes("matmul")
    assert notes("matmul-window-exact") == ""
    assert "leaves out the head's work" in notes("torchtitan")
    assert "takes recompute full for granted" in notes("megatron-2021")
    assert "granted" not in notes("megatron-2021", recompute="none")
    assert "does not count the scores that a flash kernel" in notes("palm", uses_flash=True)
    assert notes("matmul-window-exact", uses_flash=True) == ""
    assert "--attention-dtype bf16" in notes("palm", dtype="fp8")
    assert "--attention-dtype" not in notes("llmq", dtype="fp8")


def test_causal_and_window_figures_stand_beside_the_default_alone():
    """Windows only where the sequence reaches over them."""
    windowed = ModelSpec(n_layers=3, d_model=32, n_heads=4, vocab_size=97, max_seq_len=64, window=8)

    def beside(spec, convention="matmul"):
        result = mfu(spec, seq_len=32, tokens_per_s=1.0, peak_tflops=1, convention=convention)
        return list(dict.fromkeys(row.convention for row in result.beside))

    assert beside(SMALL) == ["matmul-causal"]
    assert beside(windowed) == ["matmul-causal", "matmul-window-exact"]
    assert beside(SMALL, "palm") == []


def test_decode_is_one_token_a_sequence():
    """10 tokens/s are 10 single-token steps: 2 FLOPs for each active weight and 4LaT for the cache of 32."""
    result = mfu(SMALL, seq_len=32, tokens_per_s=10.0, phase="decode")
    weights = 2 * 12 * 32**2 + 32 * 97
    assert result.flops_per_token == 2 * weights + 4 * 2 * 32 * 32
    assert result.model_tflops_per_device * 1e12 == pytest.approx(10 * result.flops_per_token)


@pytest.mark.parametrize(
    ("speed", "message"),
    [
        ({}, "no throughput is given; give one of --tokens-per-s, "),
        ({"tokens_per_s": 1.0, "samples_per_s": 1.0}, "--tokens-per-s and --samples-per-s both say how fast"),
        ({"tokens_per_s": 1.0, "tokens": 5}, "--tokens-per-s and --tokens both say"),
        ({"step_s": 1.0}, "--step-s without --batch"),
        ({"batch": 7}, "no throughput is given"),
        ({"days": 3.0}, "--days and --tokens belong together"),
        ({"tokens": 3}, "--days and --tokens belong together"),
        ({"tokens_per_s": 0.0}, "--tokens-per-s 0.0 is not above zero"),
        ({"tokens_per_s": -1.0}, "is not above zero"),
        ({"tokens_per_s": float("nan")}, "is not above zero"),
        ({"step_s": float("inf"), "batch": 1}, "--step-s inf is not above zero"),
        ({"tokens_per_s": 1.0, "n_devices": 0}, "--n-devices 0 is not above zero"),
    ],
)
def test_throughput_that_is_missing_or_contradicts_itself_is_refused(speed, message):
    """One line that says what to give."""
    with pytest.raises(InputError, match=message):
        Throughput(**speed)


@pytest.mark.parametrize(
    "speed", [{"tokens_per_s": 1e18}, {"tokens": 1, "days": 1e300}, {"step_s": 1e-300, "batch": 1}]
)
def test_a_speed_that_no_run_has_is_refused(speed):
    """A power of ten has slipped; an infinite rate would not fit into JSON."""
    with pytest.raises(InputError, match="is no speed of a run; check the units"):
        mfu(SMALL, seq_len=32, **speed)


def test_the_batch_beside_tokens_per_s_changes_nothing():
    """Figures are per token."""
    alone = mfu(SMALL, seq_len=32, tokens_per_s=10.0)
    assert mfu(SMALL, seq_len=32, tokens_per_s=10.0, batch=5) == alone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phase": "training"}, "phase='training' is not one of"),
        ({"n_devices": 1.5}, "--n-devices 1.5 is not a whole number"),
        ({"tokens_per_s": "10k"}, "--tokens-per-s '10k' is not a number"),
        ({"tokens_per_s": True}, "--tokens-per-s True is not a number"),
        ({"tokens_per_s": 10**400}, "is too large"),
        ({"peak_tflops": "312"}, "--peak-tflops '312' is not a number"),
        ({"peak_tflops": True}, "--peak-tflops True is not a number"),
        ({"device": 5}, "device=5 is not a name"),
        ({"device": "A100 SXM", "peak_set": "best"}, "peak_set='best' is no table of peaks"),
    ],
)
def test_what_a_caller_mistypes_is_refused_not_guessed(options, message):
    """A phase, a table or a number of devices that is none would give another figure without a word."""
    with pytest.raises(InputError) as caught:
        mfu(SMALL, **{"tokens_per_s": 100, **options})
    assert message in str(caught.value)


def test_changes_may_be_numbers():
    """changes={"n_layers": 5} is --set n_layers=5."""
    by_number = mfu("gpt-xl", tokens_per_s=100, changes={"n_layers": 5})
    assert by_number.flops_per_token == mfu("gpt-xl", tokens_per_s=100, changes={"n_layers": "5"}).flops_per_token
