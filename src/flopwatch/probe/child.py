"""The child's side of a probe: run one job under its limits, write the answer, end."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from flopwatch.probe.failures import classify_error, one_line
from flopwatch.probe.jobs import load_job
from flopwatch.probe.limits import Memory, memory_of, tighten_malloc, usable_cores, warm_up
from flopwatch.probe.protocol import LOG_FILE, PROGRESS_FILE, Answer, ProbeRequest, read_request, write_answer

_PR_SET_PDEATHSIG: Final = 1  # from Linux's prctl.h
# An allocation that no limit stopped (a sandbox without RLIMIT_DATA, a device that spills to host memory) is seen in
# the peak afterwards. The slack covers what the peak counts and the limit does not: code of libraries loaded late.

_SLACK_BYTES: Final = 128 * 1024 * 1024
_NO_LOG: Final = (OSError, ValueError)  # the disk is full, or the job has closed the stream


def preload() -> None:
    """Import what every job needs, before any memory is counted and, where children are forked, once for all."""
    import torch
    import torch._dynamo  # noqa: F401 - building a module on `meta` imports it: a second and 68 MiB in each probe

    import flopwatch.probe.jobs_step  # noqa: F401 - 25 ms in each probe


def live(folder: Path, *, supervisor: int) -> None:
    """Be the child for the request in `folder`: a session of its own, output to the log, gone with the supervisor."""
    if os.getsid(0) != os.getpid():
        os.setsid()
    _die_with(supervisor)
    _redirect_output(folder / LOG_FILE)
    _offer_to_the_killer()
    request, number = read_request(folder), os.getpid()
    answer = _answer(request, folder)
    if os.getpid() != number:  # a fork that the job did not end
        os._exit(0)
    write_answer(answer, folder)
    with contextlib.suppress(*_NO_LOG):
        sys.stdout.flush()
        sys.stderr.flush()


def _answer(request: ProbeRequest, folder: Path) -> Answer:
    """How the job ended; nothing that a job can raise goes unanswered."""
    memory: Memory | None = None
    n_threads: int | None = None
    try:
        preload()
        sys.path[:0] = request.import_from
        job = load_job(request.job)
        for name in request.imports:
            importlib.import_module(name)
        n_threads = _set_threads(request.n_threads)
        _make_current(request.device)
        if request.tight_memory:
            tighten_malloc()
        warm_up(request.device, fills_packing=request.tight_memory)
        memory = memory_of(request.device)
        if request.limit_bytes is not None:
            memory.limit(request.limit_bytes)
        result = _last_row(job(request.arguments), folder / PROGRESS_FILE)
        msgspec.json.encode(result)
    except BaseException as error:  # noqa: BLE001 - how a job fails is what a probe is for
        if memory is not None:
            memory.lift()
        text = one_line(error)
        with contextlib.suppress(*_NO_LOG):
            traceback.print_exc()
        outcome, failure = classify_error(type(error).__name__, text)
        peak_bytes = memory.peak_bytes() if memory is not None else None
        return Answer(outcome=outcome, failure=failure, error=text, peak_bytes=peak_bytes, n_threads=n_threads)
    memory.lift()
    peak_bytes = memory.peak_bytes()
    limit = request.limit_bytes
    if limit is not None and peak_bytes is not None and peak_bytes > limit + max(_SLACK_BYTES, limit // 50):
        text = f"it ran, but took {peak_bytes} bytes where {limit} were allowed, and nothing stopped it"
        return Answer(outcome="oom", failure="over-limit", error=text, peak_bytes=peak_bytes, n_threads=n_threads)
    return Answer(outcome="ok", result=result, peak_bytes=peak_bytes, n_threads=n_threads)


def _last_row(rows: dict[str, Any] | Iterator[dict[str, Any]], progress: Path) -> dict[str, Any]:
    """A job's result; the rows of a generator are written down one by one as they come."""
    if isinstance(rows, dict):
        return rows
    last: dict[str, Any] | None = None
    with progress.open("ab", buffering=0) as file:
        for row in rows:
            file.write(msgspec.json.encode(row) + b"\n")
            last = row
    if last is None:
        raise ValueError("the job reported nothing")
    return last


def _set_threads(wanted: int | None) -> int:
    """The number of threads that torch will use: as asked, or OMP_NUM_THREADS, or the cores that there are."""
    import torch

    if wanted is not None:
        torch.set_num_threads(wanted)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    return torch.get_num_threads()


def _make_current(device: str) -> None:
    """Let everything that names no device, memory statistics and limits above all, mean the one of the request."""
    if ":" in device and not device.startswith("cpu"):
        import torch

        torch.get_device_module(device).set_device(device)


def _redirect_output(log: Path) -> None:
    """Write to a file what the job prints: a pipe that nobody drains would stop it."""
    log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null_fd = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null_fd, 0)
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    os.close(log_fd)
    os.close(null_fd)


def _die_with(supervisor: int) -> None:
    """Be killed when the supervisor is, whatever killed it (Linux; elsewhere it kills us on its way out)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it died before we asked
        os._exit(1)


def _offer_to_the_killer() -> None:
    """Let the kernel's out-of-memory killer take this process first, not the one that waits for it."""
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("1000")


def main() -> None:
    """Be a child in a fresh interpreter: `python -m flopwatch.probe.child FOLDER SUPERVISOR`."""
    live(Path(sys.argv[1]), supervisor=int(sys.argv[2]))
    os._exit(0)


if __name__ == "__main__":
    main()
