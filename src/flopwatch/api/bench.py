"""fw.bench: how fast a step runs here, with MFU and HFU against the datasheet's peak and the one measured here."""

from __future__ import annotations

from collections.abc import Mapping

from flopwatch.api.bench_series import BenchSeries
from flopwatch.api.count import default_seq_len
from flopwatch.api.own import check_own_convention, resolve_model, settle
from flopwatch.cost.convention import DEFAULT, find_convention
from flopwatch.device.machine import Machine
from flopwatch.measure.dtype import default_dtype
from flopwatch.measure.series import ProbeSeries
from flopwatch.model.spec import ModelSpec
from flopwatch.record import BenchResult
from flopwatch.store import Store
from flopwatch.workload import Workload


def bench(
    model: str | ModelSpec,
    workload: Workload | None = None,
    *,
    device: str = "auto",
    convention: str = DEFAULT,
    compiled: bool = False,
    timeout_s: float = 1800.0,
    changes: Mapping[str, str] | None = None,
    series: ProbeSeries | None = None,
    machine: Machine | None = None,
    store: Store | None = None,
) -> BenchResult:
    """How long a step of `workload` takes, in a process of its own: tokens/s, FLOP/s, MFU, HFU, peak memory.

    `package.module:factory` is code of your own, which is run (docs/models.md).
    At least five samples after warm-up. The peak of this machine comes from `store` while it holds there, else it is
    measured in a few seconds. With `compiled` each layer runs through torch.compile. Raises DoesNotFitError when the
    step runs out of memory, ProbeError when it fails.
    """
    series = series if series is not None else ProbeSeries()
    machine = machine or series.machine(device)
    found = resolve_model(model, changes)
    rule = find_convention(convention)
    check_own_convention(found, rule)
    work = workload or Workload(seq_len=default_seq_len(found), phase="train", dtype=default_dtype(machine))
    is_given = workload is not None
    work = settle(found, work, series, is_dtype_given=is_given, is_seq_len_given=is_given)
    benches = BenchSeries(series=series, machine=machine, convention=rule, timeout_s=timeout_s, store=store)
    return benches.measure(found, work, compiled=compiled)[1]
