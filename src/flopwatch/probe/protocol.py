"""What a probe is asked and what comes of it, and the files through which the two sides speak."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import msgspec

Outcome = Literal["ok", "oom", "timeout", "crashed", "killed"]

REQUEST_FILE: Final = "request.json"
ANSWER_FILE: Final = "answer.json"
PROGRESS_FILE: Final = "progress.jsonl"
LOG_FILE: Final = "log.txt"


class ProbeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question to the hardware, put to a process of its own.

    `job` is a name in `probe/jobs.py` or `package.module:function`. `limit_bytes` is what the work may allocate on top
    of the idle process (CPU), or the allocator's total (accelerators). `n_threads` None: the cores of this process.
    `import_from` are folders that the child may import from besides its own, `imports` modules that it imports before
    its memory is counted. With `tight_memory` freed memory goes back to the system at once, so that a limit means the
    same every time; timings are taken without it.
    """

    job: str
    arguments: dict[str, Any] = {}
    limit_bytes: int | None = None
    device: str = "cpu"
    timeout_s: float = 600.0
    n_threads: int | None = None
    tight_memory: bool = False
    import_from: list[str] = []
    imports: list[str] = []


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a child writes before it ends: how its job ended, in its own view."""

    outcome: Literal["ok", "oom", "crashed"]
    result: dict[str, Any] | None = None
    failure: str | None = None
    error: str | None = None
    peak_bytes: int | None = None
    n_threads: int | None = None


class ProbeOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a probe ended. `failure` is the class of what went wrong (`failures.py`), `error` one line about it.

    `peak_bytes` is the most that the child had allocated on top of the idle process, whenever the child lived to say.
    `partial` holds what the job had reported before it ended, however it ended.
    """

    outcome: Outcome
    result: dict[str, Any] | None = None
    failure: str | None = None
    error: str | None = None
    peak_bytes: int | None = None
    n_threads: int | None = None
    wall_s: float
    partial: list[dict[str, Any]] = []

    @property
    def is_ok(self) -> bool:
        """Whether the job ran to its end and answered."""
        return self.outcome == "ok"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Parent to supervisor: run the request in `folder`, and kill it after `timeout_s`."""

    folder: str
    timeout_s: float


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """Supervisor to parent: how the child's process ended (the system's wait status) and when."""

    wait_status: int
    timed_out: bool
    wall_s: float


def write_request(request: ProbeRequest, folder: Path) -> None:
    """Put the request where the child finds it."""
    (folder / REQUEST_FILE).write_bytes(msgspec.json.encode(request))


def read_request(folder: Path) -> ProbeRequest:
    """The request that the parent put there."""
    return msgspec.json.decode((folder / REQUEST_FILE).read_bytes(), type=ProbeRequest)


def write_answer(answer: Answer, folder: Path) -> None:
    """Put the answer there, whole or not at all; raises TypeError for a result that is not plain data."""
    unfinished = folder / (ANSWER_FILE + ".unfinished")
    unfinished.write_bytes(msgspec.json.encode(answer))
    unfinished.replace(folder / ANSWER_FILE)


def read_answer(folder: Path) -> Answer | None:
    """The child's answer, or None when it left none; raises ValueError for one that makes no sense."""
    path = folder / ANSWER_FILE
    if not path.exists():
        return None
    return msgspec.json.decode(path.read_bytes(), type=Answer)


def read_progress(folder: Path) -> list[dict[str, Any]]:
    """What the job has reported so far; a line cut off by its death is left out."""
    path = folder / PROGRESS_FILE
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    rows: list[dict[str, Any]] = []
    for line in lines:
        try:
            rows.append(msgspec.json.decode(line, type=dict[str, Any]))
        except msgspec.DecodeError:
            break
    return rows
