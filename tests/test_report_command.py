"""`flopwatch report`: every model within the memory limit and the time; a broken run ends as if it had not broken."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import msgspec
import pytest

from flopwatch.api.pace import pace_of
from flopwatch.api.report import ReportRequest, report
from flopwatch.cli import run
from flopwatch.compare.utilization import Ceiling
from flopwatch.cost.flops import step_flops
from flopwatch.cost.memory import estimate_memory
from flopwatch.device.cpu import Cpu
from flopwatch.device.machine import Machine
from flopwatch.measure.journal import MemoryJournal
from flopwatch.measure.limit import Limit
from flopwatch.measure.series import ProbeSeries
from flopwatch.model.load import load_spec
from flopwatch.model.spec import ModelSpec
from flopwatch.probe.protocol import ProbeOutcome
from flopwatch.record import load_record
from flopwatch.store import Store
from flopwatch.workload import Workload

GIB = 1 << 30
RATE = 120e9  # FLOP/s of the pretended machine
GPTS = ("gpt-small", "gpt-medium", "gpt-large", "gpt-xl")
CPU = Cpu(
    model="Pretended CPU",
    n_logical_cores=2,
    n_physical_cores=2,
    n_affinity_cores=2,
    quota_cores=None,
    instruction_sets=(),
    cache_bytes=None,
    memory_total_bytes=24 * GIB,
    memory_free_bytes=22 * GIB,
    memory_limit="pretended",
)
MACHINE = Machine(kind="cpu", name="Pretended CPU", cpu=CPU, why_no_device="it is pretended")
CEILINGS = (
    Ceiling(kind="datasheet", reason="it is pretended"),
    Ceiling(kind="measured", flops_per_s={"fp32": 2 * RATE}, sources={"fp32": "fp32 matmul measured here"}),
)


class PretendedHardware:
    """Runs steps at RATE and remembers what it was asked; memory is 3 % more than predicted."""

    def __init__(self, *, break_after=None, crashing=()):
        self.asked = []
        self._break_after = break_after
        self._crashing = crashing

    def __call__(self, request, *, on_progress=None):
        if self._break_after is not None and len(self.asked) >= self._break_after:
            raise KeyboardInterrupt
        spec = msgspec.convert(request.arguments["spec"], ModelSpec)
        workload = msgspec.convert(request.arguments["workload"], Workload)
        self.asked.append((request.job, spec.name, workload.phase, workload.batch))
        if (spec.name, workload.phase) in self._crashing:
            return ProbeOutcome(outcome="crashed", failure="ValueError", error="it broke", wall_s=1.5)
        step_s = step_flops(spec, workload).model_flops / RATE
        peak_bytes = int(1.03 * estimate_memory(spec, workload).peak_bytes)
        if peak_bytes > request.limit_bytes:
            return ProbeOutcome(outcome="oom", failure="MemoryError", error="out of memory", wall_s=1.0 + step_s)
        if request.job == "fit_step":
            return ProbeOutcome(
                outcome="ok",
                result={},
                peak_bytes=peak_bytes,
                n_threads=2,
                wall_s=3.0 + request.arguments["n_steps"] * step_s,
            )
        samples_s = [step_s * (1 + 0.01 * n) for n in range(5)]
        summary = {"samples_s": samples_s, "n_steps": 1, "n_warmup": 3, "is_steady": True}
        summary |= {"tensor_peak_bytes": peak_bytes, "others_cores": 0.0}
        return ProbeOutcome(outcome="ok", result=summary, peak_bytes=peak_bytes, n_threads=2, wall_s=3.0 + 8 * step_s)


def _request(models=GPTS, *, limit_bytes=4 * GIB, **changes):
    return ReportRequest(
        specs=[load_spec(name) for name in models],
        workload=Workload(seq_len=256, phase="train", dtype="fp32"),
        limit=Limit(limit_bytes=limit_bytes, source="given"),
        **changes,
    )


def _report(request, hardware, journal=None):
    series = ProbeSeries(run=hardware, journal=journal)
    results = report(request, series=series, machine=MACHINE, ceilings=CEILINGS)
    return results, series


def test_every_model_has_its_flops_whatever_the_time():
    """With no time at all: the closed forms, predictions, and a reason for each thing that was not run."""
    hardware = PretendedHardware()
    results, _ = _report(_request(budget_s=1.0, limit_bytes=40 * GIB), hardware)
    assert hardware.asked == []
    forward = [result.counts[0].flops.total for result in results]
    # 2bT(12Ld^2 + dV) + 4bT^2dL at T = 256, as the four published geometries give it.
    shapes = [(12, 768), (24, 1024), (36, 1280), (48, 1600)]
    assert forward == [2 * 256 * (12 * n * d * d + d * 50257) + 4 * 256 * 256 * d * n for n, d in shapes]
    assert all(result.skipped for result in results)
    for result in results:
        assert [fit.verified for fit in result.fits] == [False, False]
        assert any("900 ms of --budget 1.00 s are left" in item["why"] for item in result.skipped)


def test_without_a_time_limit_every_batch_is_proved():
    """What fits ran, and what comes after it did not; what is far too large is not tried and says what it needs."""
    hardware = PretendedHardware()
    results, _ = _report(_request(limit_bytes=7 * GIB), hardware)
    fits = {(fit.model, fit.phase): fit for result in results for fit in result.fits}
    assert len(fits) == 8
    for fit in fits.values():
        if fit.batch is not None:
            assert fit.next.outcome == "oom"
            assert fit.next.batch == fit.batch + 1
    xl = fits["gpt-xl", "train"]
    assert xl.batch is None
    assert xl.predicted_peak_bytes > 4 * 4 * 1_638_022_400  # weights, gradients and two moments in fp32
    assert ("fit_step", "gpt-xl", "train", 1) not in hardware.asked


def test_a_model_that_does_not_fit_is_not_timed():
    """The reason is memory, not time."""
    results, _ = _report(_request(("gpt-xl",), limit_bytes=2 * GIB), PretendedHardware())
    assert results[0].benches == []
    assert {item["why"] for item in results[0].skipped} == {"not even batch 1 fits"}


@pytest.mark.parametrize("minutes", [2, 8])
def test_the_time_is_kept(minutes):
    """All probes of the four GPTs together take no more than the budget, and the smallest is measured in full."""
    results, series = _report(_request(limit_bytes=20 * GIB, budget_s=60.0 * minutes), PretendedHardware())
    assert series.spent_s <= 60.0 * minutes
    assert [bench.phase for bench in results[0].benches] == ["forward", "train"]


def test_a_search_that_time_cuts_short_says_so():
    """Capped is not proved: the page must not call it the largest batch."""
    results, _ = _report(_request(("gpt-small",), limit_bytes=20 * GIB, budget_s=120.0), PretendedHardware())
    fit = results[0].fits[0]
    assert fit.details["capped"]
    assert "--budget 120 s" in fit.details["capped_by"]
    assert fit.next.how == "not tested"
    assert fit.predicted_batch > fit.batch


def test_max_caps_every_search():
    """--max 3: no probe is larger."""
    hardware = PretendedHardware()
    _report(_request(("gpt-small", "gpt-medium"), limit_bytes=20 * GIB, max_batch=3), hardware)
    assert max(batch for _, _, _, batch in hardware.asked) == 3


def test_a_step_that_crashes_is_left_out_and_the_others_go_on():
    """One broken phase costs no other."""
    hardware = PretendedHardware(crashing={("gpt-small", "train")})
    results, _ = _report(_request(("gpt-small", "gpt-medium"), limit_bytes=9 * GIB), hardware)
    assert [fit.phase for fit in results[0].fits] == ["forward"]
    assert any("it broke" in item["why"] for item in results[0].skipped)
    assert [fit.phase for fit in results[1].fits] == ["forward", "train"]


def test_whoever_watches_is_told_how_long_it_takes():
    """Every step of a report has an estimate of the time left, the first try of a search too."""
    told = []
    series = ProbeSeries(run=PretendedHardware(), watch=told.append)
    report(_request(("gpt-small",), budget_s=300.0), series=series, machine=MACHINE, ceilings=CEILINGS)
    assert {progress.label.split(":")[0] for progress in told} == {"gpt-small forward", "gpt-small train"}
    assert all(progress.left_s for progress in told)


def test_the_speed_is_set_against_both_peaks():
    """Steps at RATE on a machine with twice that as its peak: MFU is a half; the datasheet's is unknown."""
    results, _ = _report(_request(("gpt-small",), bench_batch=2), PretendedHardware())
    for bench in results[0].benches:
        rows = {row.peak_kind: row for row in bench.utilization if row.name == "mfu"}
        assert rows["measured"].fraction == pytest.approx(0.5 / 1.02)  # the median of the five is 2 % over the first
        assert rows["datasheet"].fraction is None
        assert bench.batch == 2


def test_a_broken_run_ends_as_if_it_had_not_broken():
    """Broken off after any probe and continued: the same results, and no probe is asked twice."""
    request = _request(("gpt-small", "gpt-medium"), limit_bytes=7 * GIB, budget_s=200.0)
    whole = PretendedHardware()
    expected, _ = _report(request, whole)
    for n_done in range(0, len(whole.asked), 2):
        journal = MemoryJournal()
        first = PretendedHardware(break_after=n_done)
        with pytest.raises(KeyboardInterrupt):
            _report(request, first, journal)
        rest = PretendedHardware()
        results, _ = _report(request, rest, journal)
        assert [*first.asked, *rest.asked] == whole.asked
        assert [r.to_dict() for r in results] == [r.to_dict() for r in expected]


def test_a_pace_is_learned_from_what_ran():
    """A try of 40 s that was planned for 20 halves the pace; the largest batch follows."""
    spec, workload = load_spec("gpt-small"), Workload(batch=8, seq_len=256, phase="forward")
    pace = pace_of(200e9, device="cpu")
    planned_s = pace.tries_s(spec, workload, n_tries=1, n_steps=2)
    before = pace.largest_batch(spec, workload, within_s=60.0, n_tries=1, n_steps=2)
    pace.learn(spec, workload, n_steps=2, wall_s=2 * planned_s - pace.start_s(spec))
    assert pace.flops_per_s == pytest.approx(50e9)
    assert pace.largest_batch(spec, workload, within_s=60.0, n_tries=1, n_steps=2) == pytest.approx(before / 2, abs=1)
    one_more = msgspec.structs.replace(workload, batch=before // 2 + 2)
    assert pace.tries_s(spec, one_more, n_tries=1, n_steps=2) > 60.0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["gpt-smal"], 2, "did you mean gpt-small"),
        (["gpt-small", "--seq", "2048"], 2, "seq_len=2048 is longer than the context of gpt-small, 1024"),
        (["gpt-small", "--fresh", "--resume"], 2, "--fresh and --resume exclude each other"),
        (["gpt-small", "--limit", "0"], 2, "a limit of 0 bytes leaves nothing"),
        (["gpt-small", "--convention", "plam"], 2, "did you mean palm"),
        (["gpt-small", "--dtype", "fp8"], 2, "--dtype fp8 cannot be run"),
        (["gpt-small", "--batch", "9", "--max", "4"], 2, "--batch 9 is more than --max 4"),
        (["gpt-small", "--phase", "forward", "--recompute", "full"], 2, "have no meaning without training"),
        (["gpt-small", "-o", "page.html"], 2, "-o page.html would hold JSON; use --html page.html"),
        (["gpt-small", "--html", "/proc/nowhere/page.html"], 1, "cannot write /proc/nowhere/page.html"),
        (["gpt-small", "--budget", "soon"], 2, "'soon' is not a time; write it like 90s, 8min or 1h"),
    ],
)
def test_bad_input_is_one_line_before_anything_runs(capsys, tmp_path, monkeypatch, arguments, code, says):
    """Value, rule and remedy; nothing on standard output."""
    monkeypatch.chdir(tmp_path)
    assert run(["report", "--device", "cpu", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.glob("*.html")) == []


TINY = """
name = "tiny"
n_layers = 2
d_model = 48
n_heads = 3
vocab_size = 211
max_seq_len = 37
"""
COMMAND = [sys.executable, "-c", "from flopwatch.cli import main; main()", "report", "./tiny.toml"]
OPTIONS = ["--limit", "96MiB", "--budget", "1h", "--max", "150", "--dtype", "fp32", "--device", "cpu"]


def _probes(path):
    with Store(path) as store:
        (found,) = store.runs(kind="report")
        return found, [(item.kind, item.key, item.data) for item in store.items(found.id)]


@pytest.mark.slow
def test_a_killed_report_is_resumed_to_the_same_end(tmp_path):
    """kill -9 in the middle, then --resume: what was measured stands as it was, nothing is asked again, one page."""
    (tmp_path / "tiny.toml").write_text(TINY, encoding="utf-8")
    store = tmp_path / "runs.sqlite"
    environment = os.environ | {"FLOPWATCH_STORE": str(store)}
    command = [*COMMAND, *OPTIONS, "--html", "page.html", "-o", "record.json"]
    first = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s and (not store.exists() or not _has(store, 2)):
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    broken, before = _probes(store)
    assert broken.status == "interrupted"
    assert not (tmp_path / "page.html").exists()
    done = subprocess.run(
        [*command, "--resume"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    ended, after = _probes(store)
    assert (ended.id, ended.status) == (broken.id, "done")
    assert after[: len(before)] == before
    assert max(Counter((kind, key) for kind, key, _ in after).values()) == 1
    record = load_record((tmp_path / "record.json").read_bytes())
    assert [fit["phase"] for fit in record.results[0]["fits"]] == ["forward", "train"]
    assert [bench["phase"] for bench in record.results[0]["benches"]] == ["forward", "train"]
    assert (tmp_path / "page.html").stat().st_mode & 0o044
    for option in ([], ["--resume"]):  # all was measured: only drawn again, and that is said
        again = subprocess.run(
            [*command, *option, "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        assert json.loads(again.stdout) == record.to_dict()
        assert f"drawn from run {ended.id} of {record.created}, nothing was measured" in again.stderr
    anew = subprocess.run(
        [*command, "--fresh", "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert json.loads(anew.stdout)["created"] > record.created
    with Store(store) as opened:
        assert [(run.status, run.n_items > 0) for run in opened.runs(kind="report")] == [("done", True)] * 2


def _has(store, n_probes):
    """Whether so many probes are kept; the store may just be being made."""
    with Store(store) as opened:
        return any(found.n_items >= 2 + n_probes for found in opened.runs(kind="report"))
