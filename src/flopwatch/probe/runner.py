"""The parent's side of a probe: put a question to a fresh process, and get an outcome whatever becomes of it."""

from __future__ import annotations

import atexit
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import msgspec

from flopwatch.errors import MissingError, ProbeError
from flopwatch.probe.failures import classify_death, last_words
from flopwatch.probe.protocol import (
    LOG_FILE,
    Ending,
    Order,
    ProbeOutcome,
    ProbeRequest,
    read_answer,
    read_progress,
    write_request,
)

StartMethod = Literal["fork", "spawn"]
OnProgress = Callable[[list[dict[str, Any]]], None]

_LOOK_EVERY_S: Final = 0.2
_GRACE_S: Final = 5.0
_OVERDUE_S: Final = 300.0  # for a supervisor to import torch, and to end a child whose time is up
_LOG_TAIL_BYTES: Final = 64_000


def default_start_method() -> StartMethod:
    """`fork` on Linux; elsewhere the system's libraries do not survive a fork, and each probe imports torch anew."""
    return "fork" if sys.platform == "linux" else "spawn"


class ProbeRunner:
    """Runs probes one after another, each in a process of its own. Use it in `with`: no process stays behind.

    A supervisor process is started with the first probe and serves all of them. Whatever ends this process, a signal
    it cannot see included, ends the supervisor and the child as well.
    """

    def __init__(self, *, start_method: StartMethod | None = None, root: Path | None = None) -> None:
        if sys.platform == "win32":
            raise MissingError("probes need Linux or macOS", hint="under Windows use WSL")
        self._start_method = start_method or default_start_method()
        self._parent_of_root = root
        self._root: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def run(self, request: ProbeRequest, *, on_progress: OnProgress | None = None) -> ProbeOutcome:
        """How the probe ended. `on_progress` is called now and then with all rows that the job has reported so far.

        Raises MissingError without torch, and ProbeError when the supervisor cannot be started. An interruption kills
        the child and its supervisor before it goes on up.
        """
        try:
            root, control = self._started()
            folder = Path(tempfile.mkdtemp(prefix="probe-", dir=root))
            write_request(request, folder)
            order = Order(folder=str(folder), timeout_s=request.timeout_s)
            began_s = time.monotonic()
            last_s = began_s + request.timeout_s + _OVERDUE_S
            try:
                control.sendall(msgspec.json.encode(order) + b"\n")
                ending = self._wait(control, folder, on_progress, last_s=last_s)
            except (BrokenPipeError, ConnectionResetError):
                ending = None
            if ending is None:
                return self._without_supervisor(folder, wall_s=time.monotonic() - began_s, last_s=last_s)
            outcome = _outcome(folder, ending, timeout_s=request.timeout_s)
        except BaseException:
            self.close()
            raise
        shutil.rmtree(folder, ignore_errors=True)
        return outcome

    def close(self) -> None:
        """End the supervisor, and with it the child; returns when both are gone."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()  # the child goes with it (child.py: _die_with)
                self._process.wait()
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
        self._control = self._process = self._root = None
        self._unread = b""

    def _started(self) -> tuple[Path, socket.socket]:
        """The folder of the supervisor's probes and the socket to it; it is started when none runs."""
        if self._root is not None and not self._root.is_dir():  # a job, or somebody's clean-up, has removed it
            self.close()
        if self._root is not None and self._control is not None:
            return self._root, self._control
        self._root = Path(tempfile.mkdtemp(prefix="flopwatch-", dir=self._parent_of_root))
        ours, theirs = socket.socketpair()
        self._control = ours
        with theirs, (self._root / LOG_FILE).open("wb") as log:
            command = [sys.executable, "-P", "-m", "flopwatch.probe.supervisor"]
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(self._root), self._start_method],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # an interruption from the terminal is ours to handle
            )
        return self._root, ours

    def _wait(
        self, control: socket.socket, folder: Path, on_progress: OnProgress | None, *, last_s: float
    ) -> Ending | None:
        """The supervisor's word on how the child ended; None when it died itself, or is silent at `last_s`."""
        control.settimeout(_LOOK_EVERY_S)
        n_seen = 0
        while b"\n" not in self._unread:
            try:
                received = control.recv(65536)
            except TimeoutError:
                if time.monotonic() > last_s:
                    return None
                rows = [] if on_progress is None else read_progress(folder)
                if on_progress is not None and len(rows) > n_seen:
                    n_seen = len(rows)
                    on_progress(rows)
                continue
            if not received:
                return None
            self._unread += received
        line, _, self._unread = self._unread.partition(b"\n")
        return msgspec.json.decode(line, type=Ending)

    def _without_supervisor(self, folder: Path, *, wall_s: float, last_s: float) -> ProbeOutcome:
        """The outcome when the supervisor died: of its own fault an error, by a signal the probe's bad luck.

        One that is silent at `last_s`, as when somebody has stopped it, is killed, and its child with it.
        """
        assert self._process is not None
        assert self._root is not None
        is_overdue = time.monotonic() > last_s
        if is_overdue:
            self._process.kill()
        code = self._process.wait()
        log = _tail(self._root / LOG_FILE)
        partial = read_progress(folder)
        self.close()
        if is_overdue:
            text = f"the process that runs probes did not answer within {wall_s:g} s"
            return ProbeOutcome(outcome="timeout", failure="supervisor", error=text, wall_s=wall_s, partial=partial)
        if code < 0:
            text = f"the process that runs probes died of signal {-code}"
            return ProbeOutcome(outcome="killed", failure="supervisor", error=text, wall_s=wall_s, partial=partial)
        if "No module named 'torch'" in log:
            raise MissingError("torch is not installed", hint="install it to run or time a model: pip install torch")
        raise ProbeError(f"no probe can be started: {last_words(log) or f'exit code {code}'}")


def _outcome(folder: Path, ending: Ending, *, timeout_s: float) -> ProbeOutcome:
    """What the child's answer, or its silence, amounts to."""
    partial = read_progress(folder)
    if ending.timed_out:
        text = f"it did not end within {timeout_s:g} s"
        return ProbeOutcome(outcome="timeout", failure="timeout", error=text, wall_s=ending.wall_s, partial=partial)
    try:
        answer = read_answer(folder)
    except (ValueError, OSError) as error:
        return ProbeOutcome(
            outcome="crashed",
            failure="bad-answer",
            error=f"the child's answer makes no sense ({error})",
            wall_s=ending.wall_s,
            partial=partial,
        )
    if answer is None:
        outcome, failure, text = classify_death(ending.wait_status)
        said = last_words(_tail(folder / LOG_FILE))
        text = f"{text}; its last words: {said}" if said else text
        return ProbeOutcome(outcome=outcome, failure=failure, error=text, wall_s=ending.wall_s, partial=partial)
    return ProbeOutcome(
        outcome=answer.outcome,
        result=answer.result,
        failure=answer.failure,
        error=answer.error,
        peak_bytes=answer.peak_bytes,
        n_threads=answer.n_threads,
        wall_s=ending.wall_s,
        partial=partial,
    )


def _tail(path: Path) -> str:
    """The end of a log, read without loading what a noisy job has printed."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _LOG_TAIL_BYTES))
        return file.read().decode("utf-8", "replace")


_shared: ProbeRunner | None = None


def shared_runner() -> ProbeRunner:
    """The runner of this process, made with the first call and closed when the process ends."""
    global _shared
    if _shared is None:
        _shared = ProbeRunner()
        atexit.register(_shared.close)
    return _shared


def run_probe(request: ProbeRequest, *, on_progress: OnProgress | None = None) -> ProbeOutcome:
    """How a probe ended, run in a fresh process by this process's shared runner."""
    return shared_runner().run(request, on_progress=on_progress)
