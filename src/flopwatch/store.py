"""The results store: one SQLite file that keeps every run, and every measurement the moment it exists."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import msgspec
import psutil

from flopwatch.errors import InputError, NotAStoreError, StoreError

APPLICATION_ID: Final = 0x666C6F70  # "flop": how SQLite tells our file from another program's
SCHEMA_VERSION: Final = 1
ENVIRONMENT_VARIABLE: Final = "FLOPWATCH_STORE"

Status = Literal["running", "done", "failed", "interrupted"]
ItemKind = Literal["probe", "samples", "peak", "decision"]

_NO_RUN: Final = 0  # items of the machine, such as a measured peak, belong to no run
_LOCK_TIMEOUT_S: Final = 10.0
_SCHEMA: Final = """
CREATE TABLE runs (
  id INTEGER PRIMARY KEY, kind TEXT NOT NULL, created TEXT NOT NULL, status TEXT NOT NULL, resume_key TEXT NOT NULL,
  owner TEXT NOT NULL, request TEXT NOT NULL, environment TEXT NOT NULL, record TEXT);
CREATE TABLE items (
  run_id INTEGER NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, created TEXT NOT NULL, data TEXT NOT NULL,
  PRIMARY KEY (run_id, kind, key));
"""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run as it is kept. `record` is None until it has ended; an owner that is gone means `interrupted`."""

    id: int
    kind: str
    created: str
    status: Status
    resume_key: str
    request: dict[str, Any]
    environment: dict[str, Any]
    record: dict[str, Any] | None
    n_items: int


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement as it is kept: its kind, the key that says what was asked, and the answer."""

    kind: str
    key: str
    created: str
    data: dict[str, Any]


def default_path() -> Path:
    """Where the store is without `--store`: FLOPWATCH_STORE, or runs.sqlite in the user's data folder."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("flopwatch", appauthor=False)) / "runs.sqlite"


class Store:
    """An open store; every write is committed before the call returns. Use it in `with`.

    Raises StoreError, one line naming the file, for what is no store, cannot be read or written, is locked, full, or
    was written by a newer flopwatch. What was stored before stays.
    """

    def __init__(self, path: Path | None = None, *, lock_timeout_s: float = _LOCK_TIMEOUT_S) -> None:
        self.path = path if path is not None else default_path()
        with self._named_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=lock_timeout_s, isolation_level=None)
        try:
            with self._named_errors():
                self._prepare()
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a closed store cannot be used again."""
        self._db.close()

    def start_run(self, kind: str, *, request: dict[str, Any], environment: dict[str, Any], resume_key: str) -> int:
        """The number of a new run, with status `running` for as long as this process lives."""
        with self._writing():
            cursor = self._db.execute(
                "INSERT INTO runs (kind, created, status, resume_key, owner, request, environment)"
                " VALUES (?, ?, 'running', ?, ?, ?, ?)",
                (kind, _now(), resume_key, _this_process(), _to_json(request), _to_json(environment)),
            )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def continue_run(self, run_id: int) -> None:
        """Take over an unfinished run: it is `running` again, now in this process."""
        with self._writing():
            self._db.execute("UPDATE runs SET status = 'running', owner = ? WHERE id = ?", (_this_process(), run_id))

    def end_run(self, run_id: int, status: Status, *, record: dict[str, Any] | None = None) -> None:
        """Write down how a run ended, and its record when there is one."""
        text = None if record is None else _to_json(record)
        with self._writing():
            self._db.execute("UPDATE runs SET status = ?, record = ? WHERE id = ?", (status, text, run_id))

    def run(self, run_id: int) -> Run:
        """The run of that number; raises InputError when there is none."""
        for run in self._select("WHERE id = ?", run_id):
            return run
        raise InputError(f"no run {run_id} in {self.path}", hint="`flopwatch runs` lists them")

    def runs(self, *, kind: str | None = None, limit: int = 50) -> list[Run]:
        """The latest runs, newest first."""
        if kind is None:
            return self._select("ORDER BY id DESC LIMIT ?", limit)
        return self._select("WHERE kind = ? ORDER BY id DESC LIMIT ?", kind, limit)

    def find_unfinished(self, resume_key: str) -> Run | None:
        """The newest run of that key that ended without its record, or None; one that still runs is left alone."""
        found = self._select("WHERE resume_key = ? AND status != 'done' ORDER BY id DESC", resume_key)
        return next((run for run in found if run.status != "running"), None)

    def put_item(self, kind: ItemKind, key: str, data: dict[str, Any], *, run_id: int | None = None) -> None:
        """Keep one measurement, of a run or (None) of this machine; one of the same kind and key is replaced."""
        with self._writing():
            self._db.execute(
                "INSERT OR REPLACE INTO items (run_id, kind, key, created, data) VALUES (?, ?, ?, ?, ?)",
                (_NO_RUN if run_id is None else run_id, kind, key, _now(), _to_json(data)),
            )

    def get_item(self, kind: ItemKind, key: str, *, run_id: int | None = None) -> dict[str, Any] | None:
        """What was kept under that kind and key, or None."""
        row = self._one(
            "SELECT data FROM items WHERE run_id = ? AND kind = ? AND key = ?",
            (_NO_RUN if run_id is None else run_id, kind, key),
        )
        return None if row is None else _from_json(row[0])

    def items(self, run_id: int | None = None) -> list[Item]:
        """Every measurement of a run (None: of the machine), oldest first."""
        with self._named_errors():
            rows = self._db.execute(
                "SELECT kind, key, created, data FROM items WHERE run_id = ? ORDER BY created, rowid",
                (_NO_RUN if run_id is None else run_id,),
            ).fetchall()
        return [Item(kind=kind, key=key, created=created, data=_from_json(data)) for kind, key, created, data in rows]

    def _select(self, clause: str, *values: object) -> list[Run]:
        with self._named_errors():
            rows = self._db.execute(
                "SELECT id, kind, created, status, resume_key, owner, request, environment, record,"  # noqa: S608
                " (SELECT count(*) FROM items WHERE items.run_id = runs.id)"
                f" FROM runs {clause}",  # clauses are constants of this class
                values,
            ).fetchall()
        return [_run(row) for row in rows]

    def _one(self, query: str, values: tuple[object, ...]) -> tuple[Any, ...] | None:
        with self._named_errors():
            row: tuple[Any, ...] | None = self._db.execute(query, values).fetchone()
        return row

    def _prepare(self) -> None:
        """Make the tables in a new file; refuse, untouched, a file that is not ours or is from a newer version."""
        if self._is_new():
            self._db.execute("PRAGMA journal_mode = WAL")
            with self._writing():
                if self._is_new():  # another process may have made it meanwhile
                    for statement in _SCHEMA.split(";")[:-1]:
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._db.execute("PRAGMA synchronous = FULL")  # writes are rare, measurements are dear

    def _is_new(self) -> bool:
        """Whether the file is empty; raises StoreError for one that we must not touch."""
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (n_tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application == 0 and n_tables == 0:
            return True
        if application != APPLICATION_ID:
            raise NotAStoreError(f"{self.path} is another program's database", hint="name another file with --store")
        if version > SCHEMA_VERSION:
            raise NotAStoreError(
                f"{self.path} was written by a newer flopwatch (store version {version}, this one knows"
                f" {SCHEMA_VERSION})",
                hint="update flopwatch, or name another file with --store",
            )
        return False

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: all of it is kept, or nothing."""
        with self._named_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        """SQLite's and the system's errors as one line that names the file and the way out."""
        try:
            yield
        except sqlite3.Error as error:
            raise _store_error(error, self.path) from error
        except OSError as error:
            raise StoreError(
                f"no results store can be made at {self.path}: {error.strerror or error}",
                hint="name a file in a folder that you may write with --store",
            ) from error


_ERRORS: Final = {
    "SQLITE_NOTADB": ("is not a results store", "name another file with --store"),
    "SQLITE_CORRUPT": ("is damaged", "name another file with --store"),
    "SQLITE_CANTOPEN": ("cannot be opened or made", "name a file in a folder that you may write with --store"),
    "SQLITE_READONLY": ("cannot be written", "name a file in a folder that you may write with --store"),
    "SQLITE_PERM": ("cannot be written", "name a file in a folder that you may write with --store"),
    "SQLITE_FULL": ("cannot grow: the disk is full", "make room and go on with --resume"),
    "SQLITE_IOERR": ("cannot be read or written", "check the disk and go on with --resume"),
    "SQLITE_BUSY": ("is locked by another process", "wait for it, or name another file with --store"),
    "SQLITE_LOCKED": ("is locked by another process", "wait for it, or name another file with --store"),
}


def _store_error(error: sqlite3.Error, path: Path) -> StoreError:
    code = error.sqlite_errorname if hasattr(error, "sqlite_errorname") else ""
    for name, (what, hint) in _ERRORS.items():
        if code.startswith(name):
            kind = NotAStoreError if name == "SQLITE_NOTADB" else StoreError
            return kind(f"the results store {path} {what} ({error})", hint=hint)
    return StoreError(f"the results store {path} failed: {error}", hint="name another file with --store")


def _run(row: tuple[Any, ...]) -> Run:
    number, kind, created, status, resume_key, owner, request, environment, record, n_items = row
    return Run(
        id=number,
        kind=kind,
        created=created,
        status="interrupted" if status == "running" and not _is_alive(owner) else status,
        resume_key=resume_key,
        request=_from_json(request),
        environment=_from_json(environment),
        record=None if record is None else _from_json(record),
        n_items=n_items,
    )


def _this_process() -> str:
    """Host, number and start time: the number alone is given to another process one day."""
    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time()}"


def _is_alive(owner: str) -> bool:
    """Whether the process that ran it still runs; one on another host is taken to."""
    host, pid, started = owner.rsplit(" ", 2)
    if host != socket.gethostname():
        return True
    try:
        process = psutil.Process(int(pid))
        now_started_s: float = process.create_time()
        if process.status() == psutil.STATUS_ZOMBIE:  # killed, and its parent has not looked yet
            return False
    except psutil.NoSuchProcess:
        return False
    return abs(now_started_s - float(started)) < 1.0


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _to_json(data: dict[str, Any]) -> str:
    return msgspec.json.encode(data).decode()


def _from_json(text: str) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.json.decode(text)
    return data
