"""Failures by class: which of the many ways to run out of memory, or to die, this one was."""

from __future__ import annotations

import os
import re
import signal
from typing import Final, Literal

from flopwatch.probe.protocol import Outcome

# Messages as torch 2.13 and the libraries below it write them; the first that matches names the class.
_OUT_OF_MEMORY: Final = (
    ("cpu-allocator", re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory")),
    ("cuda-allocator", re.compile(r"CUDA out of memory|HIP out of memory|CUDACachingAllocator|NVML_SUCCESS == r")),
    ("cuda-driver", re.compile(r"(CUDA|HIP) error: out of memory|cudaErrorMemoryAllocation|hipErrorOutOfMemory")),
    ("cublas", re.compile(r"(CUBLAS|HIPBLAS)_STATUS_ALLOC_FAILED|rocblas_status_memory_error")),
    (
        "cudnn",
        re.compile(r"(CUDNN|MIOPEN)_STATUS_(INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED|ALLOC_FAILED)|miopenStatusAll"),
    ),
    ("xpu-allocator", re.compile(r"XPU out of memory|UR_RESULT_ERROR_OUT_OF_(HOST|DEVICE|RESOURCES)")),
    ("mps-allocator", re.compile(r"MPS backend out of memory|Invalid buffer size")),
    ("npu-allocator", re.compile(r"NPU out of memory|HPU out of memory|RESOURCE_EXHAUSTED")),
    ("std-bad-alloc", re.compile(r"std::bad_alloc")),
    ("mkl-dnn", re.compile(r"could not (create a primitive|allocate|execute a primitive)|mkl_malloc|MKL.*memory")),
    ("system", re.compile(r"[Cc]annot allocate memory|\[Errno 12\]|failed to map segment|can't start new thread")),
)
_OUT_OF_MEMORY_TYPES: Final = {"OutOfMemoryError": "torch-out-of-memory", "MemoryError": "python-memory-error"}


def one_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind where it has none or its class cannot print it."""
    try:
        lines = str(error).splitlines()
    except Exception:  # noqa: BLE001 - a class of the user's, whose text fails as well
        lines = []
    text = (" ".join(lines[0].split()) if lines else type(error).__name__)[:500]
    return text.encode("utf-8", "replace").decode()  # a file's name may hold what no JSON can


def classify_error(type_name: str, text: str) -> tuple[Literal["oom", "crashed"], str]:
    """Outcome and class of an exception in a child.

    `SystemError` stays `crashed`: the interpreter says it when an allocation failed half-way, but for other reasons
    too, so only a search that has seen a smaller batch run may read it as "did not fit".
    """
    for failure, pattern in _OUT_OF_MEMORY:
        if pattern.search(text):
            return "oom", failure
    if type_name in _OUT_OF_MEMORY_TYPES:
        return "oom", _OUT_OF_MEMORY_TYPES[type_name]
    return "crashed", type_name


def classify_death(wait_status: int) -> tuple[Outcome, str, str]:
    """Outcome, class and one line for a child that ended without an answer, from the system's wait status."""
    if os.WIFSIGNALED(wait_status):
        number = os.WTERMSIG(wait_status)
        name = _signal_name(number)
        if number == signal.SIGKILL:
            return "killed", name, f"the child was killed ({name}), by the system's out-of-memory killer or by someone"
        return "crashed", name, f"the child died of {name}"
    code = os.WEXITSTATUS(wait_status)
    return "crashed", "no-answer", f"the child ended without a word (exit code {code})"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # real-time signals have no name


def last_words(log: str, *, most: int = 200) -> str | None:
    """The last line of a child's log that says something, cut to `most` characters; None for a silent one."""
    for line in reversed(log[-64_000:].splitlines()):
        text = " ".join(line.split())
        if text:
            return text[:most]
    return None
