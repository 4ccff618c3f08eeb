"""More ways in which a child goes wrong: the outcome is right, no process stays, and the next probe runs."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flopwatch.probe.protocol import ProbeRequest
from flopwatch.probe.runner import ProbeRunner

TESTS = str(Path(__file__).parent)


def ask(job, *, timeout_s=60.0, **arguments):
    return ProbeRequest(
        job=f"fault_jobs:{job}", arguments=arguments, timeout_s=timeout_s, n_threads=1, import_from=[TESTS]
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("probes")


@pytest.fixture(scope="module")
def shared(root):
    with ProbeRunner(root=root) as made:
        yield made
    assert not list(root.iterdir())


@pytest.fixture
def runner(shared):
    """A runner that is as good after the test as it was before."""
    yield shared
    assert shared.run(ask("pid")).is_ok
    assert not psutil.Process(shared._process.pid).children(recursive=True)


def is_gone(pid):
    for _ in range(250):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("job", ["segfault", "overflow_the_stack"])
def test_a_real_segmentation_fault_is_named(runner, job):
    """By reading address 0, and by a stack that runs over in C."""
    ended = runner.run(ask(job))
    assert (ended.outcome, ended.failure) == ("crashed", "SIGSEGV")


def test_an_endless_recursion_is_an_exception(runner):
    """The interpreter itself notices."""
    assert runner.run(ask("recurse")).failure == "RecursionError"


def test_a_stopped_child_is_a_timeout(runner):
    """SIGSTOP: it neither runs nor ends."""
    assert runner.run(ask("stop_itself", timeout_s=0.5)).outcome == "timeout"


@pytest.mark.slow
def test_a_stopped_supervisor_is_a_timeout_too(root, monkeypatch):
    """Nothing that a child does can make the parent wait for ever."""
    monkeypatch.setattr("flopwatch.probe.runner._OVERDUE_S", 1.0)
    with ProbeRunner(root=root) as runner:
        assert runner.run(ask("pid")).is_ok
        ended = runner.run(ask("stop_its_parent", timeout_s=0.5))
        assert (ended.outcome, ended.failure) == ("timeout", "supervisor")
        assert runner.run(ask("pid")).is_ok


@pytest.mark.parametrize(("then", "outcome"), [("", "ok"), ("fail", "oom")])
def test_a_job_that_closes_its_streams_still_answers(runner, then, outcome):
    """What it prints is lost, what it found or how it failed is not."""
    assert runner.run(ask("close_its_streams", then=then)).outcome == outcome


def test_a_process_that_left_the_group_ends_with_the_probe(runner, tmp_path):
    """A daemon has a session of its own; whether the child answered or died without a word."""
    assert is_gone(runner.run(ask("leave_a_daemon")).result["pid"])
    note = tmp_path / "pid"
    assert runner.run(ask("leave_a_daemon", then="die", note=str(note))).failure == "no-answer"
    assert is_gone(int(note.read_text()))


@pytest.mark.parametrize("lag_s", [0, 1])
def test_a_twin_of_the_child_does_not_answer_in_its_place(runner, lag_s):
    """A fork inside the job runs on in the child's own code."""
    assert runner.run(ask("leave_a_twin", lag_s=lag_s)).result == {"twin": False}


def test_an_answer_that_a_full_disk_does_not_take_is_a_crash_that_says_so(runner, root):
    """ENOSPC."""
    ended = runner.run(ask("fill_the_disk", root=str(root)))
    assert (ended.outcome, ended.failure) == ("crashed", "no-answer")
    assert "No space left on device" in ended.error


def test_a_child_that_may_write_no_file_has_crashed(runner):
    """Its log takes no last words either."""
    assert runner.run(ask("write_no_more_files")).outcome == "crashed"


@pytest.mark.parametrize("pattern", ["*/probe-*", pytest.param("*", marks=pytest.mark.slow)])
def test_a_child_that_deletes_its_folder_has_crashed(runner, root, pattern):
    """Or the folder of all probes: the next one gets a new one."""
    ended = runner.run(ask("delete_its_folder", root=str(root), pattern=pattern))
    assert (ended.outcome, ended.failure) == ("crashed", "no-answer")


def test_folders_instead_of_files_are_rubbish(runner, root):
    """As unreadable as any other rubbish."""
    assert runner.run(ask("put_a_folder_where_the_answer_goes", root=str(root))).failure == "bad-answer"


@pytest.mark.parametrize(
    ("what", "failure"),
    [
        ("lambda", "TypeError"),
        ("surrogate", "UnicodeEncodeError"),
        ("circle", "RecursionError"),
    ],
)
def test_a_result_that_cannot_be_told_is_a_crash_with_its_kind(runner, what, failure):
    """Found out where it can still be said."""
    ended = runner.run(ask("answer_with", what=what))
    assert (ended.outcome, ended.failure) == ("crashed", failure)


def test_a_figure_that_is_no_number_is_unknown(runner):
    """NaN and infinity are null in a record; large integers stay exact."""
    assert runner.run(ask("answer_with", what="nan")).result == {"loss": None, "rates": [None, 1.0]}
    assert runner.run(ask("answer_with", what="huge")).result == {"n": 1 << 100}


@pytest.mark.parametrize(
    ("kind", "outcome", "failure", "error"),
    [
        ("KeyboardInterrupt", "crashed", "KeyboardInterrupt", "KeyboardInterrupt"),
        ("SystemExit", "crashed", "SystemExit", "None"),
        ("GeneratorExit", "crashed", "GeneratorExit", "GeneratorExit"),
        ("silent", "crashed", "_SilentError", "_SilentError"),
        ("surrogate", "crashed", "OSError", "cannot read ?"),
        ("group", "crashed", "ExceptionGroup", "two (2 sub-exceptions)"),
    ],
)
def test_whatever_is_raised_is_an_outcome(runner, kind, outcome, failure, error):
    """Also what is no Exception, what has no text, and a text that is no UTF-8."""
    ended = runner.run(ask("raise_kind", kind=kind))
    assert (ended.outcome, ended.failure, ended.error) == (outcome, failure, error)


@pytest.mark.parametrize("job", ["leave_a_thread", "leave_other_ways", "exit_at_exit"])
def test_what_a_job_leaves_behind_in_its_process_changes_nothing(runner, job):
    """A thread that runs on; another folder, mask, signals, environment and path; a slow end."""
    began_s = time.monotonic()
    assert runner.run(ask(job)).result == {"done": 1}
    assert time.monotonic() - began_s < 10


def test_a_child_that_became_another_program_gave_no_answer(runner):
    """Whatever that program's exit code."""
    ended = runner.run(ask("replace_itself"))
    assert (ended.outcome, ended.failure) == ("crashed", "no-answer")
    assert "another program" in ended.error


PARENT = """
import sys
from pathlib import Path
from flopwatch.probe.protocol import ProbeRequest
from flopwatch.probe.runner import ProbeRunner
root, tests, note = sys.argv[1:]
with ProbeRunner(root=Path(root)) as runner:
    runner.run(ProbeRequest(job="fault_jobs:leave_a_daemon_and_hang", arguments={"note": note}, import_from=[tests]))
"""


@pytest.mark.slow
def test_a_daemon_goes_when_the_parent_is_killed(tmp_path):
    """Nobody is left to ask for it but the supervisor, which sees the parent go."""
    note, root = tmp_path / "pid", tmp_path / "root"
    root.mkdir()
    with subprocess.Popen([sys.executable, "-c", PARENT, str(root), TESTS, str(note)]) as parent:
        for _ in range(600):
            if note.exists() and note.read_text():
                break
            time.sleep(0.05)
        parent.kill()
    assert is_gone(int(note.read_text()))
