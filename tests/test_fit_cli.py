"""flopwatch fit on real probes of tiny networks: the answer, the record, the store, and every way to be cut off."""

import json
import os
import signal
import subprocess
import sys
import time

import jsonschema
import psutil
import pytest

from flopwatch.measure.fit import FitRequest
from flopwatch.measure.limit import given_limit
from flopwatch.model.load import load_spec
from flopwatch.probe.runner import ProbeRunner
from flopwatch.record import json_schema
from flopwatch.store import Store
from flopwatch.workload import Workload

SPEC = 'name = "{name}"\nn_layers = {n_layers}\nd_model = 88\nn_heads = 4\nvocab_size = 5003\nmax_seq_len = 72\n'
LAYERS = {"small": 2, "deep": 3, "small-too": 2, "deep-too": 3}


def write_specs(folder):
    for name, n_layers in LAYERS.items():
        (folder / f"{name}.toml").write_text(SPEC.format(name=name, n_layers=n_layers))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with spec files; one thread, so that a busy machine does not stretch the tests."""
    write_specs(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments, store="runs.sqlite"):
    return [sys.executable, "-m", "flopwatch", *arguments, "--store", str(store)]


def flopwatch(*arguments, store="runs.sqlite"):
    return subprocess.run(command(*arguments, store=store), capture_output=True, text=True)


# Half way between two answers in training: batch 17 takes 95.98 MiB, 18 about 101. In 96 MiB 17 ran in one process and
# not in another, whose environment is larger and its heap with it.
LIMIT_MIB = 98
FIT = ("fit", "small.toml", "--dtype", "fp32", "--seq", "71", "--limit", f"{LIMIT_MIB}MiB")


def test_the_largest_batch_ran_and_the_next_did_not_three_times_over(home):
    """The record is valid, kept, and rendered again; B and B + 1 are confirmed in fresh processes of the test's own."""
    done = flopwatch(*FIT, "--phase", "train", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    jsonschema.validate(record, json_schema())
    (found,) = record["results"]
    assert found["verified"]
    assert found["next"] == {"batch": found["batch"] + 1, "outcome": "oom", "how": "ran"}
    assert len(found["probes"]) <= 5
    workload = Workload(seq_len=71, phase="train", dtype="fp32")
    request = FitRequest(spec=load_spec("small.toml"), workload=workload, limit=given_limit(LIMIT_MIB << 20))
    with ProbeRunner() as runner:
        for _ in range(3):
            assert runner.run(request.probe(found["batch"])).outcome == "ok"
            assert runner.run(request.probe(found["batch"] + 1)).outcome == "oom"
    assert json.loads(flopwatch("show", "1", "--json").stdout) == record
    assert " fit " in flopwatch("runs").stdout


def test_a_limit_below_batch_1_is_exit_3_and_kept(home):
    """What batch 1 needs stands on stderr, the record on stdout and in the store."""
    done = flopwatch("fit", "small.toml", "--dtype", "fp32", "--seq", "71", "--limit", "2MiB", "--json")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "batch 1 of small (train, 71 tokens, fp32) needs about" in done.stderr
    (found,) = json.loads(done.stdout)["results"]
    assert found["batch"] is None
    assert found["next"]["outcome"] == "oom"
    (run,) = json.loads(flopwatch("runs", "--json").stdout)
    assert (run["kind"], run["status"], run["n_items"]) == ("fit", "done", 1)


def wait_for_items(path, count):
    for _ in range(3000):
        time.sleep(0.02)
        if path.exists():
            with Store(path) as store:
                runs = store.runs()
                if runs and runs[0].n_items >= count:
                    return runs[0]
    raise AssertionError("too little was kept within a minute")


# A third of a batch (0.5 MiB of 1.4) or more from the next answer either way, for both depths: a process's own heap
# moves by 0.1 MiB with its environment's size, and at 64 MiB the deeper one's batch 43 was within 0.05 MiB of the
# limit. Four networks, so that seconds are left to cut it off in after the second of its probes; of two depths only,
# as with 6 and 10 layers batch 42 and 41 take 64.8 and 65.0 MiB, and 42 ran in one process and not in another.
FOUR = (
    "fit",
    *(f"{name}.toml" for name in LAYERS),
    "--dtype",
    "fp32",
    "--seq",
    "71",
    "--limit",
    "64.6MiB",
    "--phase",
    "forward",
)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The results of the same run without a break."""
    folder = tmp_path_factory.mktemp("unbroken")
    write_specs(folder)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command(*FOUR, "--json"), capture_output=True, text=True, cwd=folder, env=environment)
    return json.loads(done.stdout)["results"]


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code", "status"), [("SIGINT", 130, "interrupted"), ("SIGKILL", -9, "interrupted")])
def test_a_run_that_was_cut_off_goes_on_and_repeats_no_probe(home, unbroken, how, code, status):
    """Ctrl-C and kill -9: no process stays, every probe that had ended is kept, --resume asks only for the rest."""
    with subprocess.Popen(command(*FOUR), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for_items(home / "runs.sqlite", 2)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(getattr(signal, how))
        _, said = process.communicate(timeout=60)
    expected = "flopwatch: interrupted; what was measured is kept\n" if how == "SIGINT" else ""
    assert (process.returncode, said) == (code, expected)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    with Store(home / "runs.sqlite") as store:
        (run,) = store.runs()
        before = {item.key: item for item in store.items(run.id)}
    assert run.status == status
    done = flopwatch(*FOUR, "--json", "--resume")
    assert done.returncode == 0, done.stderr
    assert f"resuming run 1: {len(before)} measurements are there already" in done.stderr
    with Store(home / "runs.sqlite") as store:
        (run,) = store.runs()
        after = {item.key: item for item in store.items(run.id)}
    assert run.status == "done"
    assert {key: after[key] for key in before} == before  # none was measured again
    assert len(after) > len(before)
    record = json.loads(done.stdout)
    assert [(r["batch"], r["next"]) for r in record["results"]] == [(r["batch"], r["next"]) for r in unbroken]


def test_nothing_to_resume_is_said_and_the_run_starts_anew(home):
    """A finished run is not continued."""
    done = flopwatch("fit", "small.toml", "--limit", "2MiB", "--resume")
    assert "nothing to resume" in done.stderr
    assert done.returncode == 3


def test_a_store_that_is_none_is_one_line_before_anything_is_measured(home):
    """Exit code 2; the file stays what it was."""
    (home / "diary.txt").write_text("dear diary\n" * 50)
    done = flopwatch(*FIT, store="diary.txt")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "is not a results store" in done.stderr
    assert (home / "diary.txt").read_text() == "dear diary\n" * 50


BAD = {
    ("--optimizer", "sgd", "--phase", "forward"): "--optimizer sgd has no meaning in phase forward",
    ("--recompute", "full", "--phase", "forward"): "recompute=full has no meaning in phase forward",
    ("--seq", "73"): "72",
    ("--dtype", "fp8"): "--dtype fp8 cannot be run",
    ("--limit", "0"): "a limit of 0 bytes leaves nothing",
    ("--max", "0"): "a batch of 0 is no batch",
    ("--device", "abacus"): "'abacus' is no device of this machine",
    ("--power-of-two", "--multiple-of", "8"): "exclude each other",
    ("--timeout", "-1"): "--timeout -1",
    ("--predict-only", "--resume"): "no meaning with --predict-only",
}


@pytest.mark.parametrize(
    ("arguments", "said"), BAD.items(), ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_what_cannot_be_is_refused_in_one_line(home, arguments, said):
    """Exit code 2, nothing on stdout, no traceback, nothing measured."""
    done = flopwatch("fit", "small.toml", *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_a_prediction_for_a_card_that_is_not_here_loads_no_torch(home):
    """--predict-only --device NAME: the limit is the card's memory less a headroom that is said."""
    code = (
        "import sys; from flopwatch.cli import run\n"
        "code = run(['fit', 'small.toml', '--predict-only', '--device', 'NVIDIA A100-SXM4-40GB', '--json'])\n"
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["results"]
    assert not found["verified"]
    assert "A100 SXM4 40GB" in found["limit_source"]
    assert found["limit_bytes"] < 40 << 30


def test_no_probe_of_the_tests_is_left():
    """Every child and supervisor that this test session started has ended."""
    mine = [p for p in psutil.Process(os.getpid()).children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    assert [p for p in mine if "flopwatch.probe" in " ".join(p.cmdline())] == []
