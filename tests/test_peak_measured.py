"""The measured peak: kept while the environment holds, replaced only by a better one; a real one that is sane."""

import json
import subprocess
import sys

import msgspec
import pytest

from flopwatch.cli import run
from flopwatch.device.catalog import find_device
from flopwatch.device.detect import detect
from flopwatch.device.machine import Accelerator, Machine
from flopwatch.errors import InputError, ProbeError
from flopwatch.measure import peak
from flopwatch.probe.protocol import ProbeOutcome
from flopwatch.store import Store


@pytest.fixture
def machine():
    """The CPU here."""
    return detect("cpu")


@pytest.fixture
def store(tmp_path):
    """An empty results store."""
    with Store(tmp_path / "runs.sqlite") as opened:
        yield opened


def _probe(rate=200e9, *, steady=True, asked=None):
    """A stand-in for a child: bandwidth 20 GB/s by copy, 22 by triad; matmuls at `rate`."""

    def run(request):
        if asked is not None:
            asked.append(request)
        if request.job == "bandwidth":
            result = {"copy": {"bytes_per_s": 20e9}, "triad": {"bytes_per_s": 22e9}}
        else:
            result = {"flops_per_s": rate, "shape": [3, 5, 7], "is_steady": steady, "notes": [], "stage": "final"}
        return ProbeOutcome(outcome="ok", result=result, n_threads=2, wall_s=1.0)

    return run


def test_the_result_holds_rate_shape_and_the_higher_bandwidth(machine):
    """Triad was faster than copy; a CPU has no datasheet peak."""
    bandwidth = peak.measure_bandwidth(machine, run=_probe())
    result = peak.measure_peak("fp32", machine, bandwidth=bandwidth, run=_probe())
    assert (result.flops_per_s, result.shape, result.bandwidth_bytes_per_s) == (200e9, [3, 5, 7], 22e9)
    assert (result.datasheet_flops_per_s, result.fraction) == (None, None)
    assert result.details["n_threads"] == 2
    assert result.details["bandwidth"]["copy"]["bytes_per_s"] == 20e9


def test_a_kept_peak_is_found_again_and_nothing_is_measured(machine, store):
    """The second question costs no probe."""
    asked = []
    first = peak.peak_here("fp32", machine, store, run=_probe(asked=asked))
    assert len(asked) == 2
    second = peak.peak_here("fp32", machine, store, run=_probe(rate=1.0, asked=asked))
    assert len(asked) == 2
    assert first.result == second.result
    assert second.source.startswith("fp32 matmul measured here on 20")
    assert peak.find_stored_peak(store, machine, "bf16") is None


def test_devices_shows_what_was_measured_here_beside_the_datasheets(machine, tmp_path, capsys, monkeypatch):
    """A kept peak of 200 GFLOP/s stands below the row of this machine; no store is made where there is none."""
    path = tmp_path / "runs.sqlite"
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["devices", "--store", str(path)]) == 0
    assert "measured here" not in capsys.readouterr().out
    assert not path.exists()
    with Store(path) as opened:
        peak.keep_peak(opened, machine, peak.measure_peak("bf16", machine, run=_probe()))
    assert run(["devices", "--store", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [n for n, line in enumerate(lines) if "measured here since" in line]
    assert machine.name in lines[row - 1]
    assert "200.0 GFLOP/s" in lines[row]
    assert run(["devices", "--store", str(path), "--json"]) == 0
    here = json.loads(capsys.readouterr().out)["results"][0]
    assert here["peaks"] == []
    assert here["details"]["measured_peaks"][0]["flops_per_s"] == 200e9
    path.write_text("no store")
    assert run(["devices", "--store", str(path)]) == 0
    assert "measured peaks are n/a" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [("OMP_NUM_THREADS", "7", "n_threads None -> 7")],
)
def test_a_change_of_the_environment_ends_it_and_is_said(machine, store, monkeypatch, variable, value, said):
    """Another number of threads: the old figure is not the denominator any more."""
    monkeypatch.delenv(variable, raising=False)
    peak.peak_here("fp32", machine, store, run=_probe())
    monkeypatch.setenv(variable, value)
    stored = peak.find_stored_peak(store, machine, "fp32")
    assert not stored.holds
    assert stored.changes == (said,)
    reasons = []
    again = peak.peak_here("fp32", machine, store, run=_probe(rate=300e9), on_measure=reasons.append)
    assert again.result.flops_per_s == 300e9
    assert "no longer holds" in reasons[0]
    assert said in reasons[0]
    monkeypatch.delenv(variable)
    assert peak.find_stored_peak(store, machine, "fp32").result.flops_per_s == 200e9


def test_torch_cores_and_power_limit_are_part_of_the_fingerprint(machine):
    """What the issue names: driver, torch, power limit, affinity."""
    here = peak.fingerprint(machine)
    assert {"driver", "torch", "power_limit_w", "n_affinity_cores", "quota_cores", "device", "cpu"} <= set(here)
    assert here["torch"]
    assert here["n_affinity_cores"] == machine.cpu.n_affinity_cores


def test_a_quiet_measurement_is_not_replaced_by_a_busy_one(machine, store):
    """Nor a long search by a short one, nor the higher of two lower bounds by the lower."""

    def keep(rate, *, steady, budget_s):
        result = peak.measure_peak("fp32", machine, budget_s=budget_s, run=_probe(rate=rate, steady=steady))
        return peak.keep_peak(store, machine, result)

    assert keep(90e9, steady=False, budget_s=16.0)
    assert not keep(50e9, steady=False, budget_s=16.0)
    assert keep(95e9, steady=False, budget_s=4.0)
    assert keep(200e9, steady=True, budget_s=4.0)
    assert not keep(210e9, steady=False, budget_s=16.0)
    assert keep(201e9, steady=True, budget_s=16.0)
    assert not keep(203e9, steady=True, budget_s=4.0)
    assert keep(199e9, steady=True, budget_s=16.0)
    assert peak.find_stored_peak(store, machine, "fp32").result.flops_per_s == 199e9


def test_a_busy_measurement_says_so_and_is_tried_again(machine, store):
    """It is a lower bound; the next question measures anew."""
    first = peak.peak_here("fp32", machine, store, run=_probe(rate=90e9, steady=False))
    assert "while the machine was busy" in first.source
    reasons = []
    second = peak.peak_here("fp32", machine, store, run=_probe(), on_measure=reasons.append)
    assert second.result.flops_per_s == 200e9
    assert "was measured while the machine was busy" in reasons[0]


SUMMARY = {
    "flops_per_s": 100e9,
    "best_flops_per_s": 120e9,
    "spread_fraction": 0.02,
    "drift_fraction": 0.0,
    "n_dropped": 0,
}


@pytest.mark.parametrize(
    ("changes", "stolen_cores", "throttled", "rate", "is_steady", "said"),
    [
        ({}, 0.0, set(), 100e9, True, ""),
        ({}, 0.1, set(), 100e9, True, ""),
        ({"spread_fraction": 0.4}, 0.0, set(), 120e9, False, "samples differ by 40 %: the best of them was taken"),
        ({}, 1.3, set(), 120e9, False, "other processes kept 1.3 cores busy: a lower bound"),
        ({"spread_fraction": 0.4}, 0.0, {"software power cap"}, 100e9, False, "the median of them was taken"),
        ({}, 0.0, {"software power cap"}, 100e9, True, "the driver held the clock down: software power cap"),
        ({"n_dropped": 4}, 0.0, set(), 100e9, True, "the first 4 rounds were dropped"),
    ],
)
def test_the_figure_to_go_by_depends_on_how_quiet_it_was(changes, stolen_cores, throttled, rate, is_steady, said):
    """Quiet: the median. Disturbed: the best sample, as a lower bound. Throttled: the median, that is how it runs."""
    from flopwatch.probe.jobs_peak import judged

    found = judged({**SUMMARY, **changes}, stolen_cores, throttled)
    assert (found["flops_per_s"], found["is_steady"]) == (rate, is_steady)
    assert found["median_flops_per_s"] == 100e9
    assert said in "; ".join(found["notes"])
    assert bool(found["notes"]) == bool(said)


def test_a_lowered_power_limit_is_noted(machine):
    """250 of 350 W: the figure is that of this limit."""
    card = Accelerator(kind="cuda", index=0, name="NVIDIA L40S", power_limit_w=250.0, default_power_limit_w=350.0)
    here = Machine(kind="cuda", name=card.name, cpu=machine.cpu, accelerator=card, device=find_device(card.name))
    result = peak.measure_peak("bf16", here, run=_probe(rate=300e12))
    assert result.details["notes"] == ["the power limit is 250 W where the card's own is 350 W"]
    assert result.fraction == pytest.approx(300 / 366.4)


def test_a_failed_probe_is_an_error_with_its_reason(machine):
    """A dtype that cannot be multiplied is bad input, a dead child is a failure."""

    def refused(_request):
        return ProbeOutcome(outcome="crashed", failure="InputError", error="cpu cannot multiply fp8", wall_s=0.1)

    def dead(_request):
        return ProbeOutcome(outcome="killed", failure="SIGKILL", error="the child was killed", wall_s=0.1)

    with pytest.raises(InputError, match="cpu cannot multiply fp8"):
        peak.measure_peak("fp8", machine, run=refused)
    with pytest.raises(ProbeError, match="could not be measured: the child was killed"):
        peak.measure_peak("fp32", machine, run=dead)


@pytest.mark.slow
def test_the_command_measures_this_cpu(tmp_path):
    """A plausible figure (more than a scalar core's), its shape's own arithmetic, and one record."""
    command = [sys.executable, "-m", "flopwatch", "peak", "--dtype", "fp32", "--device", "cpu", "--quick", "--json"]
    environment = {"FLOPWATCH_STORE": str(tmp_path / "s.sqlite"), "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    details = result["details"]
    m, n, k = result["shape"]
    median_s = sorted(details["samples_s"])[len(details["samples_s"]) // 2]
    assert details["n_threads"] == 1
    assert result["flops_per_s"] > 2e9
    assert details["median_flops_per_s"] == pytest.approx(2 * m * n * k / median_s, rel=0.3)
    assert details["best_flops_per_s"] >= details["median_flops_per_s"]
    assert 5e8 < result["bandwidth_bytes_per_s"] < 2e12
    with Store(tmp_path / "s.sqlite") as kept:
        assert [item.kind for item in kept.items()] == ["peak"]


@pytest.mark.slow
def test_a_real_search_is_not_below_a_plain_matmul():
    """torch.mm of one good shape, timed here by hand: the peak is not below it by more than the noise of a busy box."""
    code = """
import json, time, torch
from flopwatch.probe.jobs_peak import matmul_peak
torch.set_num_threads(1)
*_, found = matmul_peak({"device": "cpu", "dtype": "fp32", "budget_s": 4.0})
a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
times = []
for _ in range(12):
    began = time.perf_counter(); torch.mm(a, b); times.append(time.perf_counter() - began)
print(json.dumps([found["best_flops_per_s"], 2 * 1024**3 / min(times), found["dtype"]]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found, by_hand, dtype = json.loads(done.stdout)
    assert found > 0.9 * by_hand
    assert dtype == "fp32"


def test_a_stored_result_survives_the_store_bit_for_bit(machine, store):
    """What is read back is what was kept."""
    result = peak.measure_peak("fp32", machine, run=_probe(rate=123456789012.3456))
    peak.keep_peak(store, machine, result)
    kept = peak.find_stored_peak(store, machine, "fp32").result
    assert msgspec.to_builtins(kept) == msgspec.to_builtins(result)
