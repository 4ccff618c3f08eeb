"""What bench is asked is what runs: dtypes torch would quietly replace are refused, a timeout holds for each try."""

from functools import partial

import pytest
import torch

import flopwatch as fw
from bench_ground import CPU, MACHINE, SPEC, benches_on
from flopwatch.api import bench_series
from flopwatch.api.fit import predict_fit
from flopwatch.api.own import OwnWork
from flopwatch.cli.bench_options import BenchOptions
from flopwatch.cli.report_options import ReportOptions
from flopwatch.compare.utilization import Ceiling
from flopwatch.device.machine import Accelerator, Machine
from flopwatch.errors import InputError, SpecError
from flopwatch.measure.dtype import check_dtype
from flopwatch.measure.limit import given_limit
from flopwatch.model.own import OwnModel
from flopwatch.probe.jobs_step import build
from flopwatch.probe.protocol import ProbeOutcome
from flopwatch.reference.step import build_step
from flopwatch.store import Store
from flopwatch.workload import Workload


def test_autocast_to_what_torch_does_not_cast_to_does_not_run():
    """torch would warn and go on in fp32; the figures would be called fp64."""
    with pytest.raises(SpecError, match=r"precision=autocast does not cast to dtype=fp64; use bf16 or fp16"):
        build_step(SPEC, Workload(batch=2, seq_len=5, dtype="fp64", precision="autocast"))()


@pytest.mark.parametrize("predict", [fw.memory, partial(predict_fit, limit_bytes=1 << 30)], ids=["memory", "fit"])
def test_nor_is_such_a_step_predicted(predict):
    """Its weights would be called fp32 and its matmuls what they are not."""
    with pytest.raises(SpecError, match=r"precision=autocast does not cast to dtype=fp32"):
        predict(SPEC, Workload(seq_len=5, phase="train", dtype="fp32", precision="autocast"))


@pytest.fixture
def precision_kept():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("precision_kept")
def test_a_step_in_tf32_tells_torch_so():
    """The weights are fp32 in either mode, and torch multiplies them in fp32 unless it is told."""
    arguments = {"spec": SPEC.to_dict(), "device": "cpu"}
    build(arguments | {"workload": Workload(seq_len=5, dtype="fp32").to_dict()})
    assert torch.get_float32_matmul_precision() == "highest"
    build(arguments | {"workload": Workload(seq_len=5, dtype="tf32").to_dict()})
    assert torch.get_float32_matmul_precision() == "high"


def machine_of(kind, capability):
    card = Accelerator(kind=kind, index=0, name=f"some {kind}", capability=capability)
    return Machine(kind=kind, name=card.name, cpu=CPU, accelerator=card)


@pytest.mark.parametrize(
    ("kind", "capability", "has"),
    [("cuda", "8.0", True), ("cuda", "7.5", False), ("rocm", "9.0", True), ("xpu", None, False)],
)
def test_tf32_is_refused_where_it_would_run_as_fp32(kind, capability, has):
    """NVIDIA has it since Ampere, 8.0; T4 is 7.5."""
    here = machine_of(kind, capability)
    check_dtype("fp32", here)
    if has:
        check_dtype("tf32", here)
        return
    with pytest.raises(InputError, match=f"some {kind} has no tf32; it would run in fp32"):
        check_dtype("tf32", here)


def test_fp32_work_of_own_code_is_of_the_tf32_peak_where_it_runs_in_it():
    """A trace sees fp32 tensors in both modes."""
    sizes = {"takes_batch": True, "takes_seq_len": True, "batch": 1, "seq_len": 1, "unit": "tokens", "n_params": 1}
    seen = OwnWork(**sizes, dtype="tf32", model_flops={"fp32": 7, "bf16": 5}, hardware_flops={"fp32": 9})
    work = seen.step_work(Workload(dtype="tf32"))
    assert (work.model_flops, work.hardware_flops) == ({"tf32": 7, "bf16": 5}, {"tf32": 9})
    assert seen.step_work(Workload(dtype="fp32")).model_flops == {"fp32": 7, "bf16": 5}


@pytest.mark.parametrize(
    ("kind", "capability", "dtype", "lets", "is_told"),
    [
        ("cuda", "8.0", "fp32", True, True),
        ("cuda", "8.0", "tf32", True, False),
        ("cuda", "8.0", "bf16", True, False),
        ("cuda", "8.0", "fp32", False, False),
        ("cuda", "7.5", "fp32", True, False),
        ("rocm", "9.0", "fp32", True, False),
    ],
)
def test_fp32_that_cudnn_runs_in_tf32_is_told(monkeypatch, kind, capability, dtype, lets, is_told):
    """Only NVIDIA's cuDNN does so, since Ampere; what is called tf32 is of that peak anyway."""

    def hardware(request, *, on_progress=None):
        if request.job == "bench_step":
            found = {"samples_s": [0.1] * 5, "n_steps": 1, "n_warmup": 3, "is_steady": True}
            found |= {"tensor_peak_bytes": 9, "others_cores": None}
        else:
            found = {"takes_batch": True, "takes_seq_len": False, "batch": 1, "seq_len": 1, "unit": "samples"}
            found |= {"dtype": dtype, "n_params": 7, "lets_cudnn_use_tf32": lets, "model_flops": {dtype: 1000}}
        return ProbeOutcome(outcome="ok", result=found, wall_s=1.0, peak_bytes=9)

    monkeypatch.setattr(bench_series, "measured_ceiling", lambda *_args, **_options: Ceiling(kind="measured"))
    benches = benches_on(hardware, machine=machine_of(kind, capability))
    benches.limit = given_limit(40 << 30)
    work = Workload(phase="train", seq_len=1, dtype=dtype)
    _, found = benches.measure(OwnModel(factory="my_code:cnn", folder="."), work)
    assert any("torch.backends.cudnn.allow_tf32 = False" in note for note in found.details["notes"]) == is_told


class Asked:
    """Remembers the patience of the first try of a fit, and goes no further."""

    timeout_s: float | None = None

    def __call__(self, request, *, on_progress=None):
        assert request.job == "fit_step"
        self.timeout_s = request.timeout_s
        raise KeyboardInterrupt


def test_the_tries_of_the_largest_batch_have_the_timeout_that_was_asked(tmp_path):
    """600 s when nothing was said."""
    for asked_s, expected_s in ((7.0, 7.0), (None, 600.0)):
        tries = Asked()
        what = BenchOptions(batch="max", limit=1 << 26)
        with pytest.raises(KeyboardInterrupt), Store(tmp_path / "runs.sqlite") as store:
            what.measure(SPEC, Workload(phase="train", seq_len=61), benches_on(tries), store, timeout_s=asked_s)
        assert tries.timeout_s == expected_s


def a_millisecond(_request, *, on_progress=None):
    summary = {"samples_s": [0.001] * 5, "n_steps": 1, "n_warmup": 3, "is_steady": True}
    summary |= {"tensor_peak_bytes": 9, "others_cores": None}
    return ProbeOutcome(outcome="ok", result=summary, wall_s=1.0)


def test_a_prediction_beside_a_compiled_step_says_that_it_is_not_of_that_step(monkeypatch):
    """A compiled convolution took 306 KiB here where 418 KiB are predicted, and are taken, without."""
    peak = Ceiling(kind="measured", reason="pretended")
    monkeypatch.setattr(bench_series, "measured_ceiling", lambda *_args, **_options: peak)
    work, said = Workload(seq_len=61), "the predicted memory is that of the step without torch.compile"
    for compiled in (True, False):
        found = benches_on(a_millisecond).measure(SPEC, work, compiled=compiled)[1]
        assert found.predicted_peak_bytes is not None
        assert (said in found.details["notes"]) is compiled


def test_a_largest_batch_that_is_timed_compiled_says_that_it_was_searched_without(tmp_path, monkeypatch):
    """A compiled step may take another amount of memory."""
    peak = Ceiling(kind="measured", reason="pretended")
    monkeypatch.setattr(bench_series, "measured_ceiling", lambda *_args, **_options: peak)
    monkeypatch.setattr(BenchOptions, "_largest", lambda *_args, **_options: 5)
    work, said = Workload(phase="train", seq_len=61), "the largest batch was searched without torch.compile"
    for compiled in (True, False):
        what = BenchOptions(batch="max", compile=compiled)
        with Store(tmp_path / "runs.sqlite") as store:
            found = what.measure(SPEC, work, benches_on(a_millisecond), store)
        assert found.batch == 5
        assert (said in found.details["notes"]) is compiled


@pytest.mark.parametrize(
    ("asked", "said"), [({"precision": "autocast"}, "cast to dtype=fp32"), ({"dtype": "tf32"}, "no tf32")]
)
def test_a_report_refuses_such_a_step_before_it_measures(asked, said):
    """The pretended CPU has no bf16 instructions: its default is fp32."""
    with pytest.raises(InputError, match=said):
        ReportOptions(**asked).workload([SPEC], MACHINE)
