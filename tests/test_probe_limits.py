"""A memory limit on a CPU is exact, means the same every time, and running into it is an answer."""

import types
from pathlib import Path

import psutil
import pytest
import torch

from flopwatch.probe.child import _make_current
from flopwatch.probe.failures import classify_error
from flopwatch.probe.jobs_device import device_memory
from flopwatch.probe.protocol import ProbeRequest
from flopwatch.probe.runner import ProbeRunner

TESTS = str(Path(__file__).parent)


@pytest.fixture(scope="module")
def runner():
    with ProbeRunner() as made:
        yield made


def allocate(runner, mib, *, limit_mib, job="allocate"):
    request = ProbeRequest(
        job=f"fault_jobs:{job}",
        arguments={"mib": mib},
        limit_bytes=limit_mib << 20,
        n_threads=1,
        tight_memory=True,
        import_from=[TESTS],
    )
    return runner.run(request)


def test_the_limit_is_met_to_two_mebibytes_three_times_over(runner):
    """Of 200 MiB, 198 one-MiB tensors fit and 201 do not, each time in a fresh process."""
    for _ in range(3):
        assert allocate(runner, 198, limit_mib=200).outcome == "ok"
        ended = allocate(runner, 201, limit_mib=200)
        assert (ended.outcome, ended.failure) == ("oom", "cpu-allocator")


@pytest.mark.parametrize("mib", [5, 23, 150])
def test_the_peak_is_what_was_allocated(runner, mib):
    """The high-water mark over the idle process: tensors of 1 MiB, each with a page of its own for malloc.

    Less than the warm-up took is told as well.
    """
    peak_bytes = allocate(runner, mib, limit_mib=400).peak_bytes
    assert mib << 20 <= peak_bytes <= (mib + 3) << 20


@pytest.mark.slow
def test_the_same_work_takes_the_same_memory_to_the_byte_each_time():
    """In another child and under another supervisor: addresses and hashes are fixed, where the system allows it."""
    peaks = []
    for _ in range(2):
        with ProbeRunner() as made:
            layout = made.run(ProbeRequest(job="fault_jobs:layout", import_from=[TESTS])).result
            peaks += [allocate(made, 90, limit_mib=400).peak_bytes for _ in range(2)]
    if not layout["is_fixed"]:
        pytest.skip("this system does not let a process choose its layout")
    assert len(set(peaks)) == 1


def test_free_memory_is_told_of_a_cpu_too():
    """Of what this process may use; there is no accelerator's allocator to ask."""
    found = device_memory({"device": "cpu"})
    assert 0 < found["free_bytes"] <= found["total_bytes"] <= psutil.virtual_memory().total


def test_limits_and_peaks_are_of_the_device_that_was_named(monkeypatch):
    """torch's memory functions mean the current device: a probe on cuda:1 makes it that one."""
    chosen = []
    fake = types.SimpleNamespace(set_device=chosen.append)
    monkeypatch.setattr(torch, "get_device_module", lambda _device: fake)
    for device in ("cpu", "cuda", "cuda:1", "xpu:3"):
        _make_current(device)
    assert chosen == ["cuda:1", "xpu:3"]


def test_what_no_limit_stopped_is_still_out_of_memory(runner):
    """Where a system does not enforce the limit, the peak tells: 700 MiB in 200 is no fit."""
    ended = allocate(runner, 700, limit_mib=200, job="escape_the_limit")
    assert (ended.outcome, ended.failure) == ("oom", "over-limit")
    assert allocate(runner, 100, limit_mib=200, job="escape_the_limit").outcome == "ok"


# As the libraries write them: torch's source and its forum, cited by what they say, not by where.
MESSAGES = {
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "209715200 bytes. Error code 12 (Cannot allocate memory)": "cpu-allocator",
    "[enforce fail at alloc_cpu.cpp:75] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.": (
        "cpu-allocator"
    ),
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 39.39 GiB": "cuda-allocator",
    "HIP out of memory. Tried to allocate 20.00 MiB": "cuda-allocator",
    "CUDA error: out of memory": "cuda-driver",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`": "cublas",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED": "cudnn",
    "XPU out of memory. Tried to allocate 2 GiB": "xpu-allocator",
    "MPS backend out of memory (MPS allocated: 8.00 GB, max allowed: 9.07 GB)": "mps-allocator",
    "std::bad_alloc": "std-bad-alloc",
    "could not create a primitive": "mkl-dnn",
    "[Errno 12] Cannot allocate memory": "system",
}


@pytest.mark.parametrize(("text", "failure"), MESSAGES.items(), ids=MESSAGES.values())
def test_every_backends_words_for_out_of_memory_are_known(text, failure):
    """The same event has a dozen names; all of them are `oom`, and the class is kept."""
    assert classify_error("RuntimeError", text) == ("oom", failure)


def test_other_errors_are_not_taken_for_out_of_memory():
    """A bug must not read as "does not fit"."""
    for kind, text in [
        ("RuntimeError", "mat1 and mat2 shapes cannot be multiplied (3x5 and 7x11)"),
        ("RuntimeError", "CUDA error: device-side assert triggered"),
        ("IndexError", "index out of range in self"),
        ("SystemError", "<built-in method> returned NULL without setting an exception"),
    ]:
        assert classify_error(kind, text) == ("crashed", kind)
