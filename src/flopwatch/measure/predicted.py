"""The predicted peak of a step by part, to stand beside the measured one."""

from __future__ import annotations

import functools

from flopwatch.cost.memory import MemoryEstimate, estimate_memory
from flopwatch.errors import SpecError
from flopwatch.model.spec import ModelSpec
from flopwatch.workload import Workload


@functools.lru_cache(maxsize=64)
def estimate_on(spec: ModelSpec, workload: Workload, device: str = "cpu") -> MemoryEstimate | None:
    """The closed form's estimate of a step as torch runs it on a kind of device; None for what it cannot estimate.

    Kept, because a search asks for the total and its result for the parts.
    """
    is_cuda = device.split(":")[0] == "cuda"
    try:
        return estimate_memory(spec, workload, foreach=is_cuda, device_type="cuda" if is_cuda else "cpu")
    except SpecError:
        return None


def predicted_parts(
    spec: ModelSpec, workload: Workload, *, device: str = "cpu", total_bytes: int | None = None
) -> dict[str, int] | None:
    """Bytes of a step's peak by part, those of 0 left out; None for what cannot be estimated.

    `total_bytes` is what an allocator takes for them, where that is what was predicted: the difference is `reserved`.
    """
    estimate = estimate_on(spec, workload, device)
    if estimate is None:
        return None
    parts = {name: n_bytes for name, n_bytes in estimate.parts.items() if n_bytes}
    reserved_bytes = 0 if total_bytes is None else total_bytes - estimate.peak_bytes
    return parts | {"reserved": reserved_bytes} if reserved_bytes > 0 else parts
