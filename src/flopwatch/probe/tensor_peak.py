"""The peak of live tensors, exactly: the sum of every allocation and release that torch's allocators report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class TensorPeak:
    """Filled when its block has ended: the most bytes that lived at once in tensors and temporaries, and those left."""

    peak_bytes: int | None = None
    left_bytes: int | None = None


@contextlib.contextmanager
def tensor_peak() -> Iterator[TensorPeak]:
    """Count what the block allocates; what lived before it is not counted, what it leaves alive is.

    torch's profiler reports allocations of temporaries inside kernels too, which no tensor ever shows. Its overhead
    is about 1 kB of memory an event, outside of what is counted.
    """
    from torch.profiler import ProfilerActivity, profile

    counted = TensorPeak()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield counted
    live_bytes = peak_bytes = 0
    results = profiler.profiler.kineto_results if profiler.profiler is not None else None
    if results is None:
        return
    for event in results.events():  # in the order of time
        if event.name() == "[memory]":
            live_bytes += event.nbytes()
            peak_bytes = max(peak_bytes, live_bytes)
    counted.peak_bytes = peak_bytes
    counted.left_bytes = live_bytes
