"""doctor: one line for each thing, a way out where it is missing; selftest judges figures, and 1 is the exit code."""

import json
import subprocess
import sys

import msgspec
import pytest

from flopwatch.api import doctor, selftest
from flopwatch.device.catalog import find_device
from flopwatch.device.detect import detect
from flopwatch.device.machine import Accelerator, Machine
from flopwatch.probe.protocol import ProbeOutcome


@pytest.fixture
def machine():
    """The CPU here."""
    return detect("cpu")


@pytest.fixture
def card(machine):
    """A made-up machine with an L40S at a lowered power limit."""
    found = Accelerator(
        kind="cuda", index=0, name="NVIDIA L40S", memory_total_bytes=48 << 30, memory_free_bytes=40 << 30, sm_count=142,
        driver="550.54.15", power_limit_w=250.0, default_power_limit_w=350.0, throttle_reasons=("software power cap",),
    )  # fmt: skip
    return Machine(kind="cuda", name=found.name, cpu=machine.cpu, accelerator=found, device=find_device(found.name))


def _lines(*args, **kwargs):
    return {line.name: line for line in doctor.doctor(*args, **kwargs)}


def test_a_cpu_only_machine_is_told_what_is_na_and_why(machine, tmp_path):
    """No accelerator, no datasheet peak, nothing measured: each with its reason or way out."""
    lines = _lines(machine, store=tmp_path / "s.sqlite", folder=tmp_path)
    assert lines["torch"].outcome == "ok"
    assert lines["accelerator"].outcome == "n/a"
    assert "measure it with `flopwatch peak`" in lines["datasheet peak"].found
    assert lines["measured peak"].way_out.startswith("run `flopwatch peak`")
    assert "cores usable" in lines["CPU"].found
    assert lines["results store"].outcome == "ok"


def test_an_accelerator_is_told_with_its_state(card, tmp_path):
    """Memory, SMs, driver, lowered power limit, throttling, the datasheet's figures."""
    lines = _lines(card, store=tmp_path / "s.sqlite", folder=tmp_path)
    found = lines["accelerator"].found
    for part in ("NVIDIA L40S (cuda:0)", "142 SMs", "driver 550.54.15", "250 W (default 350 W)", "software power cap"):
        assert part in found
    assert "bf16 366.4 TFLOP/s" in lines["datasheet peak"].found


def test_without_torch_the_rest_is_still_told(tmp_path):
    """No machine could be asked."""
    lines = _lines(None, store=tmp_path / "s.sqlite", folder=tmp_path)
    assert "CPU" not in lines
    assert {"flopwatch", "torch", "results store", "device file", "settings"} <= set(lines)


def test_a_broken_device_file_or_store_is_shown_and_not_raised(machine, tmp_path, monkeypatch):
    """doctor is there for broken machines."""
    broken = tmp_path / "devices.toml"
    broken.write_text("[[device]\n")
    monkeypatch.setenv("FLOPWATCH_DEVICES", str(broken))
    (tmp_path / "not-a-store").write_text("hello, this is no database at all\n" * 40)
    lines = _lines(machine, store=tmp_path / "not-a-store", folder=tmp_path)
    assert lines["device file"].outcome == "failed"
    assert "is not valid TOML" in lines["device file"].found
    assert lines["results store"].outcome == "failed"


def _answers(**results):
    """A stand-in for children: by job, an answer or an outcome."""

    def run(request):
        found = results[request.job]
        found = found(request) if callable(found) else found
        if isinstance(found, ProbeOutcome):
            return found
        return ProbeOutcome(outcome="ok", result=found, wall_s=0.1)

    return run


def _allocate(request):
    n_bytes, limit = request.arguments["n_bytes"], request.limit_bytes
    if limit is not None and n_bytes > limit:
        return ProbeOutcome(outcome="oom", failure="cpu-allocator", error="can't allocate", wall_s=0.1)
    return {"asked_bytes": n_bytes, "counted_bytes": n_bytes}


GOOD = {
    "allocate": _allocate,
    "clocks": {"tick_s": 4e-8, "wall_s": 0.25, "monotonic_s": 0.25, "event_s": None},
    "matmul_peak": {"flops_per_s": 200e12, "shape": [3, 5, 7], "is_steady": True, "notes": []},
    "fit_step": lambda _request: {"tensor_peak_bytes": 102_728_944, "n_steps": 3, "step_s": []},
}


def _outcomes(machine, **changes):
    return {check.name: check.outcome for check in selftest.selftest(machine, _answers(**{**GOOD, **changes}))}


def test_every_check_can_fail(machine, card):
    """A child that nothing stops, a wrong count, a coarse or skewed clock, a peak too low or high, a wrong memory."""

    def never_full(request):
        return {"asked_bytes": request.arguments["n_bytes"], "counted_bytes": request.arguments["n_bytes"]}

    def counts_half(request):
        found = _allocate(request)
        return found if isinstance(found, ProbeOutcome) else {**found, "counted_bytes": found["asked_bytes"] // 2}

    clock = GOOD["clocks"]
    assert _outcomes(machine, allocate=never_full)["out-of-memory recovery"] == "failed"
    assert _outcomes(machine, allocate=counts_half)["memory statistics"] == "failed"
    assert _outcomes(machine, clocks={**clock, "tick_s": 1e-3})["clocks"] == "failed"
    assert _outcomes(machine, clocks={**clock, "monotonic_s": 0.26})["clocks"] == "failed"
    assert _outcomes(card, clocks={**clock, "event_s": 0.20})["clocks"] == "failed"
    for rate, outcome in ((50e12, "failed"), (200e12, "ok"), (390e12, "ok"), (600e12, "failed")):
        found = _outcomes(card, matmul_peak={**GOOD["matmul_peak"], "flops_per_s": rate})
        assert found["peak against datasheet"] == outcome, rate
    twice = {"tensor_peak_bytes": 205_457_888}
    assert _outcomes(machine, fit_step=twice)["predicted against measured memory"] == "failed"


def test_a_check_that_cannot_run_here_is_na_and_one_that_dies_is_failed(machine):
    """No datasheet peak for a CPU; a child that was killed."""
    assert _outcomes(machine)["peak against datasheet"] == "n/a"
    dead = ProbeOutcome(outcome="killed", failure="SIGKILL", error="the child was killed", wall_s=0.1)
    (check,) = [c for c in selftest.selftest(machine, _answers(**{**GOOD, "clocks": dead})) if c.name == "clocks"]
    assert check.outcome == "failed"
    assert "the child was killed" in check.found


def _flopwatch(*arguments, **environment):
    command = [sys.executable, "-m", "flopwatch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": "", **environment})


@pytest.mark.slow
def test_doctor_always_ends_with_0(tmp_path):
    """Even with a device file that cannot be read: it says so."""
    broken = tmp_path / "devices.toml"
    broken.write_text("[[device]\n")
    done = _flopwatch(
        "doctor", "--json", FLOPWATCH_DEVICES=str(broken), FLOPWATCH_STORE=str(tmp_path / "s"), HOME=str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["kind"] == "doctor"
    assert {"ok", "n/a", "failed"} == {line["outcome"] for line in record["results"]}


@pytest.mark.slow
def test_the_selftest_holds_on_this_machine(tmp_path):
    """Real children: out of memory and back, exact statistics, fine clocks, memory as predicted."""
    done = _flopwatch("doctor", "--selftest", "--device", "cpu", "--json", FLOPWATCH_STORE=str(tmp_path / "s"))
    assert done.returncode == 0, done.stderr + done.stdout
    results = json.loads(done.stdout)["results"]
    assert len(results) == 5
    assert [line["name"] for line in results if line["outcome"] == "n/a"] == ["peak against datasheet"]


def test_a_line_of_doctor_is_plain_data(machine, tmp_path):
    """The record holds it."""
    lines = list(doctor.doctor(machine, store=tmp_path / "s.sqlite", folder=tmp_path))
    assert json.loads(json.dumps(msgspec.to_builtins(lines)))
