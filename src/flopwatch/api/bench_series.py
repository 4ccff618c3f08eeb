"""Benchmarks that belong together: one limit, one set of peaks, one journal, whatever is changed between them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from flopwatch.api.bandwidth import bandwidth_ceilings, cache_bytes
from flopwatch.api.ceilings import datasheet_ceiling, measured_ceiling
from flopwatch.api.own import OwnWork, Wanted, check_any_batch, own_work
from flopwatch.compare.bench import StepWork, bench_result, work_of
from flopwatch.compare.decode import BandwidthCeiling
from flopwatch.compare.utilization import Ceiling, merged_ceiling
from flopwatch.cost.convention import Convention
from flopwatch.device.machine import Machine
from flopwatch.measure.bench import BenchRequest, StepMeasurement, bench_step, joined
from flopwatch.measure.dtype import check_dtype, has_tf32
from flopwatch.measure.limit import Limit, free_limit
from flopwatch.measure.series import ProbeSeries
from flopwatch.model.own import Model, OwnModel
from flopwatch.record import BenchResult
from flopwatch.store import Store
from flopwatch.workload import Workload

_CUDNN: Final = (
    "torch lets cuDNN run fp32 convolutions and recurrent layers in tf32, above the fp32 peak:"
    " torch.backends.cudnn.allow_tf32 = False in the factory keeps them in fp32"
)


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
        self._ceilings: dict[str, tuple[Ceiling, Ceiling]] = {}

    @functools.cached_property
    def limit(self) -> Limit:
        """What a step may allocate: it protects the machine."""
        return free_limit(self.series, self.machine)

    @property
    def takes_turns(self) -> bool:
        """Whether steps can be timed in turn here: on an accelerator another process's tensors would be in the way."""
        return self.machine.kind == "cpu"

    def fit_beside(self, measured: Sequence[StepMeasurement]) -> bool:
        """Whether steps can be timed in turn here and are known to fit into memory beside one another."""
        taken = [one.allocated_peak_bytes for one in measured]
        known = [n_bytes for n_bytes in taken if n_bytes is not None]
        return self.takes_turns and len(known) == len(taken) and sum(known) <= self.limit.limit_bytes

    def own_work(
        self, own: OwnModel, workload: Workload, *, wanted: Wanted = "work", keep_dtype: bool = False
    ) -> OwnWork:
        """What a run without data says of the user's step at a workload."""
        return own_work(
            own,
            workload,
            self.series,
            wanted=wanted,
            keep_dtype=keep_dtype,
            limit_bytes=self.limit.limit_bytes,
            timeout_s=self._timeout_s,
        )

    def _work(self, model: Model, workload: Workload) -> StepWork:
        if isinstance(model, OwnModel):
            found = self.own_work(model, workload)
            if found.batch != workload.batch:
                check_any_batch(model, found)
            work = found.step_work(workload)
            may_use_tf32 = found.lets_cudnn_use_tf32 and self.machine.kind == "cuda" and has_tf32(self.machine)
            if may_use_tf32 and workload.dtype == "fp32":
                work = msgspec.structs.replace(work, notes=[*work.notes, _CUDNN])
            return work
        return work_of(model, workload, self._convention, device=self.machine.torch_device)

    def request(self, spec: Model, workload: Workload, *, compiled: bool = False, repeat: int = 0) -> BenchRequest:
        """What is asked of a probe; the same is asked anew only under another `repeat`.

        Raises InputError for a dtype that this machine has not.
        """
        check_dtype(workload.dtype, self.machine)
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
        self,
        spec: Model,
        workload: Workload,
        *,
        compiled: bool = False,
        repeat: int = 0,
        besides: StepMeasurement | None = None,
    ) -> tuple[StepMeasurement, BenchResult]:
        """The step's measurement and what follows from it; raises DoesNotFitError or ProbeError when it fails.

        The samples of `besides`, of the same step, count with those that are taken now.
        """
        work = self._work(spec, workload)
        request = self.request(spec, workload, compiled=compiled, repeat=repeat)
        measured = bench_step(request, self.series)
        if besides is not None:
            measured = joined(besides, measured)
        return measured, self._result(request, measured, work)

    def result(
        self, spec: Model, workload: Workload, measured: StepMeasurement, *, compiled: bool = False
    ) -> BenchResult:
        """What follows from a measurement of the step."""
        return self._result(self.request(spec, workload, compiled=compiled), measured, self._work(spec, workload))

    def _result(self, request: BenchRequest, measured: StepMeasurement, work: StepWork) -> BenchResult:
        return bench_result(
            request,
            measured,
            work=work,
            device_name=self.machine.name,
            convention=self._convention,
            ceilings=self._ceilings_of(work.model_flops or {request.workload.dtype: 0}),
            bandwidths=self._bandwidths_of(request.workload),
            cache_bytes=cache_bytes(self.machine),
        )

    def _ceilings_of(self, dtypes: Iterable[str]) -> list[Ceiling]:
        """The datasheet's peaks and the measured ones, of all dtypes that a step computes in."""
        found = [self._ceilings_of_dtype(dtype) for dtype in dtypes]
        return [merged_ceiling(list(kind)) for kind in zip(*found, strict=True)]

    def _ceilings_of_dtype(self, dtype: str) -> tuple[Ceiling, Ceiling]:
        if dtype not in self._ceilings:
            measured = measured_ceiling(self.machine, dtype, self.series, store=self._store)
            self._ceilings[dtype] = (datasheet_ceiling(self.machine, dtype), measured)
        return self._ceilings[dtype]

    def _bandwidths_of(self, workload: Workload) -> Sequence[BandwidthCeiling]:
        if workload.phase != "decode":
            return ()
        return bandwidth_ceilings(self.machine, workload.dtype, self.series, store=self._store)
