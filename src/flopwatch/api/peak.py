"""fw.peak: the matmul FLOP/s and memory bandwidth that this machine reaches, measured now."""

from __future__ import annotations

from pathlib import Path

from flopwatch.device.machine import Machine
from flopwatch.measure.dtype import default_dtype
from flopwatch.measure.peak import (
    FULL_S,
    QUICK_S,
    StoredPeak,
    dtypes_of,
    find_stored_peak,
    keep_peak,
    measure_bandwidth,
    measure_peak,
)
from flopwatch.measure.series import ProbeSeries
from flopwatch.record import PeakResult
from flopwatch.store import Store, default_path
from flopwatch.workload import DType


def peak(
    dtype: DType | None = None, *, device: str = "auto", quick: bool = False, store: Store | None = None
) -> PeakResult:
    """The fastest matmul of `dtype` (what is fast here when left out) and the memory bandwidth; about 20 s, or 6.

    In a process of its own. With a `store` it is kept as this machine's denominator. Raises InputError for a dtype
    that the device cannot multiply, MissingError without torch or the device.
    """
    machine = ProbeSeries().machine(device)
    bandwidth = measure_bandwidth(machine, budget_s=1.0 if quick else 3.0)
    name = dtype or default_dtype(machine)
    result = measure_peak(name, machine, budget_s=QUICK_S if quick else FULL_S, bandwidth=bandwidth)
    if store is not None:
        keep_peak(store, machine, result)
    return result


def stored_peaks(machine: Machine, *, store: Path | None = None) -> list[StoredPeak]:
    """The peaks that were measured on this machine before and still hold; none where nothing was kept yet.

    Raises StoreError for a store that cannot be read.
    """
    path = store if store is not None else default_path()
    if not path.exists():
        return []
    with Store(path) as opened:
        found = [find_stored_peak(opened, machine, dtype) for dtype in dtypes_of(machine)]
    return [peak for peak in found if peak is not None and peak.holds]
