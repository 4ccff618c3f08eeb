"""Whatever becomes of a child, the parent gets an outcome with its class of failure, and no process stays behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flopwatch.errors import ProbeError
from flopwatch.probe.protocol import ProbeRequest
from flopwatch.probe.runner import ProbeRunner

TESTS = str(Path(__file__).parent)


def ask(job, *, limit_mib=None, timeout_s=60.0, n_threads=1, **arguments):
    return ProbeRequest(
        job=f"fault_jobs:{job}",
        arguments=arguments,
        limit_bytes=None if limit_mib is None else limit_mib << 20,
        timeout_s=timeout_s,
        n_threads=n_threads,
        tight_memory=True,
        import_from=[TESTS],
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("probes")


@pytest.fixture(scope="module")
def runner(root):
    with ProbeRunner(root=root) as made:
        yield made
    assert not list(root.iterdir())


def test_each_probe_is_a_process_of_its_own_that_has_torch_already(runner):
    """A new process and session each time, forked from the same supervisor."""
    first, second = runner.run(ask("pid")).result, runner.run(ask("pid")).result
    assert first["pid"] != second["pid"]
    assert first["parent"] == second["parent"] != os.getpid()
    assert first["session"] == first["pid"]
    assert first["torch"]


def test_a_hanging_child_is_a_timeout_and_gone(runner):
    """Even one that ignores polite signals."""
    began_s = time.monotonic()
    outcome = runner.run(ask("hang", timeout_s=0.5))
    assert (outcome.outcome, outcome.failure) == ("timeout", "timeout")
    assert outcome.error == "it did not end within 0.5 s"
    assert time.monotonic() - began_s < 5
    assert not children_of(runner)


def children_of(runner):
    return psutil.Process(runner._process.pid).children(recursive=True)


@pytest.mark.parametrize(
    ("name", "outcome"), [("SIGSEGV", "crashed"), ("SIGABRT", "crashed"), ("SIGBUS", "crashed"), ("SIGKILL", "killed")]
)
def test_a_child_that_dies_of_a_signal_is_named_by_it(runner, name, outcome):
    """A kill comes from outside; every other signal is the child's own crash."""
    ended = runner.run(ask("die_by", signal=name))
    assert (ended.outcome, ended.failure) == (outcome, name)
    assert ended.error.endswith("its last words: about to go")


@pytest.mark.parametrize("code", [0, 3])
def test_a_child_that_ends_without_a_word_has_crashed(runner, code):
    """Also with exit code 0: no answer is no success."""
    ended = runner.run(ask("exit_without_a_word", code=code))
    assert (ended.outcome, ended.failure) == ("crashed", "no-answer")
    assert f"exit code {code}" in ended.error


@pytest.mark.parametrize(
    "rubbish", [b"", b"\xff\xfe", b"{", b"[]", b'{"outcome": "fine"}', b'{"outcome": "ok", "x": 1}']
)
def test_rubbish_instead_of_an_answer_is_a_crash(runner, root, rubbish):
    """Never a traceback in the parent, never a success."""
    ended = runner.run(ask("write_rubbish", root=str(root), hex=rubbish.hex()))
    assert (ended.outcome, ended.failure) == ("crashed", "bad-answer")


@pytest.mark.parametrize(
    ("name", "text", "outcome", "failure"),
    [
        ("MemoryError", "", "oom", "python-memory-error"),
        ("SystemError", "error return without exception set", "crashed", "SystemError"),
        ("SystemExit", "", "crashed", "SystemExit"),
        ("ZeroDivisionError", "a / b\nsecond line", "crashed", "ZeroDivisionError"),
    ],
)
def test_an_exception_in_the_job_is_classified(runner, name, text, outcome, failure):
    """MemoryError is out-of-memory; SystemError is left to those who know whether a smaller batch ran."""
    ended = runner.run(ask("raise_named", name=name, text=text))
    assert (ended.outcome, ended.failure) == (outcome, failure)
    assert ended.error == (text.splitlines()[0] if text else name)


def test_a_result_that_is_no_plain_data_is_said(runner):
    """The child itself finds out, and says which type."""
    ended = runner.run(ask("answer_with_no_data"))
    assert (ended.outcome, ended.failure) == ("crashed", "TypeError")
    assert "object" in ended.error


def test_ten_megabytes_of_output_do_not_stop_a_child(runner):
    """Output goes to a file; a pipe would fill up after 64 kB."""
    assert runner.run(ask("print_much", mib=10)).result == {"done": 1}


def test_what_was_reported_before_a_timeout_is_kept(runner):
    """Samples taken before the end are not lost with the child."""
    ended = runner.run(ask("report_then_hang", n_rows=3, timeout_s=2))
    assert ended.outcome == "timeout"
    assert ended.partial == [{"row": 0}, {"row": 1}, {"row": 2}]


def test_rows_are_seen_while_the_job_runs(runner):
    """A progress bar can follow; the last row is the result."""
    seen = []
    ended = runner.run(ask("report", n_rows=4), on_progress=lambda rows: seen.append(len(rows)))
    assert ended.result == {"row": 3}
    assert seen
    assert seen[0] < 4
    assert runner.run(ask("report_nothing")).failure == "ValueError"


def test_a_process_that_the_job_started_ends_with_it(runner):
    """The child's whole group is killed, whoever is in it."""
    left = runner.run(ask("leave_a_grandchild")).result["pid"]
    for _ in range(50):
        if not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.02)
    else:
        pytest.fail(f"process {left} is still there")


def test_an_unknown_job_names_those_that_are_known(runner):
    """The registry is the list of what a child can do."""
    ended = runner.run(ProbeRequest(job="fit_stp"))
    assert ended.failure == "InputError"
    assert "fit_step" in ended.error


@pytest.mark.parametrize("n_threads", [1, 2])
def test_the_number_of_threads_is_as_asked(runner, n_threads):
    """And it is told back, because a timing without it means little."""
    ended = runner.run(ask("threads", n_threads=n_threads))
    assert ended.result == {"n_threads": n_threads}
    assert ended.n_threads == n_threads


def test_a_killed_supervisor_is_an_outcome_and_the_next_probe_runs(root):
    """The system's out-of-memory killer may take it; the series goes on with a new one."""
    with ProbeRunner(root=root) as runner:
        supervisor = runner.run(ask("pid")).result["parent"]
        psutil.Process(supervisor).kill()
        ended = runner.run(ask("pid"))
        assert (ended.outcome, ended.failure) == ("killed", "supervisor")
        assert runner.run(ask("pid")).outcome == "ok"


def test_a_supervisor_that_cannot_start_is_an_error_with_its_reason(root, monkeypatch):
    """Such as a flopwatch that the interpreter does not find."""
    monkeypatch.setattr(sys, "executable", str(root / "python"))
    (root / "python").write_text("#!/bin/sh\necho 'ModuleNotFoundError: flopwatch' >&2; exit 1\n")
    (root / "python").chmod(0o755)
    with ProbeRunner(root=root) as runner, pytest.raises(ProbeError, match="ModuleNotFoundError: flopwatch"):
        runner.run(ask("pid"))
    (root / "python").unlink()


@pytest.mark.slow
def test_a_fresh_interpreter_gives_the_same_answers_as_a_fork(root):
    """What other systems than Linux use."""
    with ProbeRunner(root=root, start_method="spawn") as runner:
        result = runner.run(ask("pid")).result
        assert result["session"] == result["pid"]
        assert runner.run(ask("die_by", signal="SIGSEGV")).failure == "SIGSEGV"
        assert runner.run(ask("hang", timeout_s=5)).outcome == "timeout"
        assert not children_of(runner)


PARENT = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background is born deaf to it
from flopwatch.probe.protocol import ProbeRequest
from flopwatch.probe.runner import ProbeRunner
from pathlib import Path
with ProbeRunner(root=Path(sys.argv[1])) as runner:
    assert runner.run(ProbeRequest(job="fault_jobs:pid", import_from=[sys.argv[2]])).is_ok
    assert "torch" not in sys.modules and "numpy" not in sys.modules
    print("ready", flush=True)
    runner.run(ProbeRequest(job="fault_jobs:hang", import_from=[sys.argv[2]]))
"""


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_when_the_parent_goes_nothing_stays(tmp_path, how):
    """Killed, terminated or interrupted in the middle of a probe: no process and no file is left."""
    command = [sys.executable, "-c", PARENT, str(tmp_path), TESTS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "ready\n"
        time.sleep(0.3)
        family = psutil.Process(parent.pid).children(recursive=True)
        assert len(family) == 2  # supervisor and child
        parent.send_signal(getattr(__import__("signal"), how))
        parent.wait(10)
        gone, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert len(gone) == 2
    assert not list(tmp_path.iterdir())


def test_the_parent_does_not_grow_over_twenty_probes(runner):
    """What a probe allocates, the parent never sees."""
    runner.run(ask("allocate", mib=64))
    before = psutil.Process().memory_info().rss
    for _ in range(20):
        assert runner.run(ask("allocate", mib=64)).is_ok
    assert psutil.Process().memory_info().rss - before < 2 << 20
