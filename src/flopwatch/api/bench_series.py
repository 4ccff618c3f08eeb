"""Benchmarks that belong together: one limit, one set of peaks, one journal, whatever is changed between them."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from flopwatch.api.bandwidth import bandwidth_ceilings, cache_bytes
from flopwatch.api.ceilings import datasheet_ceiling, measured_ceiling
from flopwatch.compare.bench import bench_result
from flopwatch.compare.decode import BandwidthCeiling
from flopwatch.compare.utilization import Ceiling
from flopwatch.cost.convention import Convention
from flopwatch.device.machine import Machine
from flopwatch.measure.bench import BenchRequest, StepMeasurement, bench_step
from flopwatch.measure.limit import Limit, free_limit
from flopwatch.measure.series import ProbeSeries
from flopwatch.model.spec import ModelSpec
from flopwatch.record import BenchResult
from flopwatch.store import Store
from flopwatch.workload import Workload


class BenchSeries:
    """Times steps one after another on one machine; peaks are looked up, or measured, once for each dtype."""

    def __init__(
        self,
        *,
        series: ProbeSeries,
        machine: Machine,
        convention: Convention,
        timeout_s: float,
        store: Store | None = None,
    ) -> None:
        self.series = series
        self.machine = machine
        self._convention = convention
        self._timeout_s = timeout_s
        self._store = store
        self._ceilings: dict[str, list[Ceiling]] = {}

    @functools.cached_property
    def limit(self) -> Limit:
        """What a step may allocate: it protects the machine."""
        return free_limit(self.series, self.machine)

    def request(self, spec: ModelSpec, workload: Workload, *, compiled: bool = False, repeat: int = 0) -> BenchRequest:
        """What is asked of a probe; the same is asked anew only under another `repeat`."""
        return BenchRequest(
            spec=spec,
            workload=workload,
            limit=self.limit,
            device=self.machine.torch_device,
            timeout_s=self._timeout_s,
            compiled=compiled,
            repeat=repeat,
        )

    def measure(
        self, spec: ModelSpec, workload: Workload, *, compiled: bool = False, repeat: int = 0
    ) -> tuple[StepMeasurement, BenchResult]:
        """The step's measurement and what follows from it; raises DoesNotFitError or ProbeError when it fails."""
        request = self.request(spec, workload, compiled=compiled, repeat=repeat)
        measured = bench_step(request, self.series)
        result = bench_result(
            request,
            measured,
            device_name=self.machine.name,
            convention=self._convention,
            ceilings=self._ceilings_of(workload.dtype),
            bandwidths=self._bandwidths_of(workload),
            cache_bytes=cache_bytes(self.machine),
        )
        return measured, result

    def _ceilings_of(self, dtype: str) -> list[Ceiling]:
        if dtype not in self._ceilings:
            measured = measured_ceiling(self.machine, dtype, self.series, store=self._store)
            self._ceilings[dtype] = [datasheet_ceiling(self.machine, dtype), measured]
        return self._ceilings[dtype]

    def _bandwidths_of(self, workload: Workload) -> Sequence[BandwidthCeiling]:
        if workload.phase != "decode":
            return ()
        return bandwidth_ceilings(self.machine, workload.dtype, self.series, store=self._store)
