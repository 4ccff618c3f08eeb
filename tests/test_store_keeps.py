"""The results store keeps what was measured, and says in one line why it cannot."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from flopwatch.errors import InputError, StoreError
from flopwatch.store import SCHEMA_VERSION, Store, default_path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deeper" / "runs.sqlite"


def start(store, key="k1", kind="fit"):
    return store.start_run(kind, request={"batch": 3}, environment={"cpu": "x"}, resume_key=key)


def test_an_item_is_there_for_another_process_the_moment_it_is_put(path):
    """Each write is committed before the call returns, so a kill loses nothing."""
    with Store(path) as store:
        run_id = start(store)
        store.put_item("probe", "b=3", {"outcome": "oom", "peak_bytes": None}, run_id=run_id)
        code = (
            "import sys; from pathlib import Path; from flopwatch.store import Store\n"
            "s = Store(Path(sys.argv[1])); print(s.items(int(sys.argv[2])), s.run(int(sys.argv[2])).status)"
        )
        done = subprocess.run([sys.executable, "-c", code, path, str(run_id)], capture_output=True, text=True)
    assert "'outcome': 'oom', 'peak_bytes': None" in done.stdout, done.stderr
    assert done.stdout.rstrip().endswith("running")


def test_a_run_whose_process_was_killed_is_found_by_its_key_with_its_items(path):
    """kill -9 leaves status `running` behind; the store sees that the owner is gone."""
    code = (
        "import os, sys; from pathlib import Path; from flopwatch.store import Store\n"
        "s = Store(Path(sys.argv[1])); r = s.start_run('fit', request={}, environment={}, resume_key='k')\n"
        "s.put_item('probe', 'b=1', {'outcome': 'ok'}, run_id=r); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == -9
    with Store(path) as store:
        run = store.find_unfinished("k")
        assert run is not None
        assert run.status == "interrupted"
        assert [item.key for item in store.items(run.id)] == ["b=1"]
        store.continue_run(run.id)
        assert store.find_unfinished("k") is None


def test_a_run_that_still_runs_or_is_done_is_not_resumed(path):
    """Only what ended without its record is continued."""
    with Store(path) as store:
        run_id = start(store)
        assert store.find_unfinished("k1") is None
        store.end_run(run_id, "failed")
        assert store.find_unfinished("k1").id == run_id
        assert store.find_unfinished("other") is None
        store.end_run(run_id, "done", record={"kind": "fit"})
        assert store.find_unfinished("k1") is None
        assert store.run(run_id).record == {"kind": "fit"}


def test_runs_are_listed_newest_first_and_by_kind(path):
    """`flopwatch runs` shows the latest first, with the number of measurements kept."""
    with Store(path) as store:
        first, second, third = start(store), start(store, kind="bench"), start(store)
        store.put_item("samples", "s", {"x": 1}, run_id=second)
        store.put_item("samples", "s", {"x": 2}, run_id=second)  # replaced, not doubled
        assert [run.id for run in store.runs()] == [third, second, first]
        assert [run.n_items for run in store.runs(kind="bench")] == [1]
        assert [run.id for run in store.runs(limit=1)] == [third]


def test_items_of_the_machine_belong_to_no_run(path):
    """A measured peak outlives the run that measured it."""
    with Store(path) as store:
        store.put_item("peak", "cpu/fp32", {"flops_per_s": 1.5e11})
        run_id = start(store)
    with Store(path) as store:
        assert store.get_item("peak", "cpu/fp32") == {"flops_per_s": 1.5e11}
        assert store.get_item("peak", "cpu/fp32", run_id=run_id) is None
        assert store.get_item("probe", "cpu/fp32") is None


def test_an_unknown_run_is_bad_input(path):
    """Exit code 2, naming the store."""
    with Store(path) as store, pytest.raises(InputError, match=r"no run 77 in .*runs\.sqlite") as caught:
        store.run(77)
    assert caught.value.exit_code == 2


def test_the_environment_names_the_store(monkeypatch, tmp_path):
    """FLOPWATCH_STORE is the store without --store."""
    monkeypatch.setenv("FLOPWATCH_STORE", str(tmp_path / "mine.db"))
    assert default_path() == tmp_path / "mine.db"


def one_line(caught):
    text = str(caught.value)
    assert "\n" not in text
    assert "--store" in text or "--resume" in text
    return text


def test_a_file_that_is_no_store_is_refused_unchanged(tmp_path):
    """A text file, and another program's database, stay byte for byte what they were."""
    text, other = tmp_path / "notes.txt", tmp_path / "other.db"
    text.write_text("dear diary\n" * 99)
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE t (x)")
    db.close()
    before = other.read_bytes()
    with pytest.raises(StoreError) as caught:
        Store(text)
    assert "is not a results store" in one_line(caught)
    with pytest.raises(StoreError) as caught:
        Store(other)
    assert "another program's database" in one_line(caught)
    assert text.read_text() == "dear diary\n" * 99
    assert other.read_bytes() == before


def test_a_folder_is_no_store(tmp_path):
    """`--store .` is a slip that people make."""
    with pytest.raises(StoreError) as caught:
        Store(tmp_path)
    assert "cannot be opened" in one_line(caught)


def test_a_store_of_a_newer_version_is_refused(path):
    """An old flopwatch must not write into tables that it does not know."""
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(StoreError) as caught:
        Store(path)
    assert "newer flopwatch" in one_line(caught)


def test_a_locked_store_is_said_after_the_wait(path):
    """Another process that holds the file does not hang us for ever."""
    with Store(path) as store:
        run_id = start(store)
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with Store(path, lock_timeout_s=0.05) as second, pytest.raises(StoreError) as caught:
            second.put_item("probe", "b=1", {}, run_id=run_id)
        assert "locked by another process" in one_line(caught)
        holder.close()
        store.put_item("probe", "b=1", {}, run_id=run_id)


def test_a_read_only_store_is_said(path):
    """What may be read but not written fails at the first write, in one line (root ignores folder modes, so SQLite
    itself is told to refuse)."""
    with Store(path) as store:
        store.put_item("peak", "kept", {"x": 7})
        store._db.execute("PRAGMA query_only = ON")
        with pytest.raises(StoreError) as caught:
            store.put_item("peak", "lost", {"x": 8})
        assert "cannot be written" in one_line(caught)
        assert store.get_item("peak", "kept") == {"x": 7}


def test_a_folder_that_cannot_be_made_is_said():
    """The kernel refuses it for root too."""
    with pytest.raises(StoreError) as caught:
        Store(Path("/proc/flopwatch/runs.sqlite"))
    assert "/proc/flopwatch" in one_line(caught)


def test_a_full_disk_keeps_what_was_stored_before(path):
    """The file's size is capped by the kernel: the write that does not fit fails, the earlier ones are read again."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from flopwatch.store import Store\n"
        "from flopwatch.errors import StoreError\n"
        "s = Store(Path(sys.argv[1])); s.put_item('peak', 'kept', {'x': 7})\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))\n"
        "try: s.put_item('peak', 'lost', {'x': 'y' * (1 << 20)})\n"
        "except StoreError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.stdout.count("\n") == 1, done.stderr
    assert "--resume" in done.stdout
    with Store(path) as store:
        assert store.get_item("peak", "kept") == {"x": 7}
        assert store.get_item("peak", "lost") is None


def test_a_run_whose_killed_process_was_not_yet_looked_at_is_interrupted(tmp_path):
    """kill -9 leaves a zombie until its parent waits for it: it does no more work."""
    code = (
        "import os, signal, sys; from pathlib import Path; from flopwatch.store import Store\n"
        "store = Store(Path(sys.argv[1]))\n"
        "store.start_run('fit', request={}, environment={}, resume_key='x')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    file = tmp_path / "runs.sqlite"
    process = subprocess.Popen([sys.executable, "-c", code, str(file)])
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with Store(file) as store:
            assert [run.status for run in store.runs()] == ["interrupted"]
    finally:
        process.wait()
