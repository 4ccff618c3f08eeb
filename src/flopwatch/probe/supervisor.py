"""The process between parent and children: it has imported torch once, forks a child a probe, and outlives neither.

The parent never imports torch and never forks; a child is forked from a process that has imported torch but has
computed nothing, which costs milliseconds where a fresh import costs seconds. When the parent goes away, however it
goes, the socket to it closes: the supervisor then kills the child's whole group, removes the files, and ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from flopwatch.probe import child
from flopwatch.probe.protocol import LOG_FILE, Ending, Order

_ADDR_NO_RANDOMIZE: Final = 0x0040000  # from Linux's personality.h
_ASK_PERSONALITY: Final = 0xFFFFFFFF
_PR_SET_CHILD_SUBREAPER: Final = 36  # from Linux's prctl.h
_LAYOUT_VARIABLE: Final = "FLOPWATCH_PROBE_LAYOUT"
_TICK_S: Final = 1.0  # a wake-up that got lost costs no more than this

Start = Callable[[Path], int]


class _Children:
    """Starts children, wakes up when one ends, kills what is left of it."""

    def __init__(self, control: socket.socket, *, fork: bool) -> None:
        self._control = control
        self._start: Start = self._fork if fork else self._spawn
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler there must be, or the pipe stays silent

    def run(self, order: Order) -> Ending | None:
        """How the child for `order` ended; None when the parent went away meanwhile (the child is then gone too)."""
        began_s = time.monotonic()
        pid = self._start(Path(order.folder))
        timed_out = False
        try:
            while not _has_ended(pid):
                left_s = began_s + order.timeout_s - time.monotonic()
                if left_s <= 0 and not timed_out:
                    timed_out = True
                    _kill_group(pid)
                ends = [self._control.fileno(), self._wake_read]
                ready, _, _ = select.select(ends, [], [], min(_TICK_S, max(left_s, 0.01)))
                if ends[0] in ready:  # the parent says nothing while it waits: this is its end
                    return None
                if self._wake_read in ready:
                    os.read(self._wake_read, 4096)
        finally:
            _kill_group(pid)  # also what the child has started and left behind
            _, status = os.waitpid(pid, 0)
            _kill_left_behind()
        return Ending(wait_status=status, timed_out=timed_out, wall_s=time.monotonic() - began_s)

    def _fork(self, folder: Path) -> int:
        supervisor = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            child.live(folder, supervisor=supervisor)
        except BaseException:  # noqa: BLE001 - a forked child must end here, never go on as a second supervisor
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        finally:
            os._exit(0)

    def _spawn(self, folder: Path) -> int:
        with (folder / LOG_FILE).open("ab") as log:
            command = [sys.executable, "-P", "-m", "flopwatch.probe.child", str(folder), str(os.getpid())]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        process.returncode = 0  # we wait for it ourselves; without this the object would try to
        return process.pid


def _has_ended(pid: int) -> bool:
    """Whether the process has ended; it stays unreaped, so that its group's number cannot be given away."""
    if hasattr(os, "waitid"):
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    import psutil

    return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # no group yet, or only its zombie leader (macOS)
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _adopt() -> None:
    """Let processes whose parent ends below this one become its children, whatever session they are in (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _kill_left_behind() -> None:
    """Kill what the child has started in sessions of its own: with the child gone they are ours (`_adopt`)."""
    while left := _own_children():
        for pid in left:
            os.kill(pid, signal.SIGKILL)  # it is unreaped: its number is still its own
            os.waitpid(pid, 0)


def _own_children() -> list[int]:
    lists = Path("/proc/self/task").glob("*/children")  # nothing of the kind outside of Linux
    return [int(pid) for one in lists for pid in one.read_text().split()]


def _fix_layout() -> None:
    """Start over with addresses and hashes that are the same each time, where the system lets us (Linux).

    What a step takes then repeats to the byte: at random addresses the heap differs by up to a mebibyte. A sandbox may
    refuse; the answers are then repeatable within that.
    """
    if sys.platform != "linux" or os.environ.get(_LAYOUT_VARIABLE):
        return
    libc = ctypes.CDLL(None)
    current = libc.personality(_ASK_PERSONALITY)
    if current == -1 or libc.personality(current | _ADDR_NO_RANDOMIZE) == -1:
        return
    environment = {**os.environ, "PYTHONHASHSEED": "0", _LAYOUT_VARIABLE: "fixed"}
    command = [sys.executable, "-P", "-m", "flopwatch.probe.supervisor", *sys.argv[1:]]
    os.execve(sys.executable, command, environment)  # noqa: S606 - our own interpreter, with our own arguments


def main() -> None:
    """Serve the parent at the other end of a socket: `python -m flopwatch.probe.supervisor FD FOLDER METHOD`."""
    _fix_layout()
    _adopt()
    control = socket.socket(fileno=int(sys.argv[1]))
    root, method = Path(sys.argv[2]), sys.argv[3]
    try:
        if method == "fork":
            child.preload()
            gc.freeze()  # a collection in a child looks at its own objects, not at the half million that torch has
        children = _Children(control, fork=method == "fork")
        with control.makefile("rb") as orders:
            for line in orders:
                ending = children.run(msgspec.json.decode(line, type=Order))
                if ending is None:
                    break
                control.sendall(msgspec.json.encode(ending) + b"\n")
    except BrokenPipeError:
        pass  # the parent went away between its order and our answer
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
