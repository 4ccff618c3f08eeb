"""fw.report: everything known of each model on this machine, within a memory limit and a time that are said."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from flopwatch.api.bandwidth import bandwidth_ceilings, cache_bytes
from flopwatch.api.ceilings import datasheet_ceiling, measured_ceiling
from flopwatch.api.count import count
from flopwatch.api.pace import Pace, pace_of
from flopwatch.api.report_parts import convention_rows, roofline_under, roofs
from flopwatch.compare.bench import bench_result, work_of
from flopwatch.compare.decode import BandwidthCeiling
from flopwatch.compare.utilization import Ceiling
from flopwatch.cost.convention import DEFAULT, find_convention
from flopwatch.cost.flops import step_flops
from flopwatch.device.machine import Machine
from flopwatch.errors import DoesNotFitError, ProbeError, SpecError
from flopwatch.measure.batch_search import MOST, Grid
from flopwatch.measure.bench import BenchRequest, bench_step
from flopwatch.measure.fit import FitRequest, fit_batch, n_steps, predict_batch, predicted_peak
from flopwatch.measure.limit import Limit, free_limit
from flopwatch.measure.series import ProbeSeries, Progress
from flopwatch.model.spec import ModelSpec
from flopwatch.record import BenchResult, ConventionRow, FitResult, ReportResult, RooflineResult
from flopwatch.store import Store
from flopwatch.units import format_seconds
from flopwatch.workload import Phase, Workload

_TRIES: Final = 3  # a search: the prediction, its neighbour, now and then one more
_RESERVE_FRACTION: Final = 0.1  # of the budget: what a plan may be wrong by
_BENCH_STEPS: Final = 10  # two to start, warm-up, five samples
_WEIGHTS: Final = {"fit": 3, "bench": 1}  # shares of the time that is left
_UNKNOWN_PEAK: Final = 1e11  # a few cores
_PREDICTION_MARGIN: Final = 1.03  # the batch that fits lies at most this far above the predicted one
_SURELY_TOO_LARGE: Final = 1.2  # a prediction this far above the limit is not tried: predictions err by a few percent


class ReportRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked: the work, what fits and the speed of each model, in each phase.

    `workload` gives sequence length, dtype and the like; its batch and phase are not used. `budget_s` is the time that
    searches and timings may take together, None for as long as they need. `bench_batch` None: the largest batch that
    was found, or that can be timed within the budget.
    """

    specs: Sequence[ModelSpec]
    workload: Workload
    limit: Limit
    device: str = "cpu"
    phases: Sequence[Phase] = ("forward", "train")
    convention: str = DEFAULT
    max_batch: int = MOST
    bench_batch: int | None = None
    budget_s: float | None = None
    timeout_s: float = 600.0

    def at(self, phase: Phase, batch: int = 1) -> Workload:
        """The workload of a phase and batch."""
        recompute = self.workload.recompute if phase == "train" else "none"
        return msgspec.structs.replace(self.workload, phase=phase, batch=batch, recompute=recompute)


def report(
    request: ReportRequest,
    *,
    series: ProbeSeries,
    machine: Machine,
    store: Store | None = None,
    ceilings: Sequence[Ceiling] | None = None,
) -> list[ReportResult]:
    """One result a model: FLOPs always, and in the time given the batch that fits and the speed, smallest model first.

    What is left out stands in `skipped` with the reason. Whether something is left out follows from what was measured
    alone, so that a run that is continued ends as it would have without the break. Raises StoreError when a
    measurement cannot be kept; a step that fails is skipped.
    """
    for spec in request.specs:
        spec.check_seq_len(request.workload.seq_len)
    dtype = request.workload.dtype
    bandwidths: Sequence[BandwidthCeiling] = ()
    if ceilings is None:
        ceilings = [datasheet_ceiling(machine, dtype), measured_ceiling(machine, dtype, series, store=store)]
        bandwidths = bandwidth_ceilings(machine, dtype, series, store=store)
    run = _Run(request=request, series=series, machine=machine, ceilings=ceilings, bandwidths=bandwidths)
    for unit in run.units():
        unit()
    return [run.result(model) for model in run.models]


class _Run:
    """The units of a report, one after another, each with its share of the time that is left."""

    def __init__(
        self,
        *,
        request: ReportRequest,
        series: ProbeSeries,
        machine: Machine,
        ceilings: Sequence[Ceiling],
        bandwidths: Sequence[BandwidthCeiling],
    ) -> None:
        self.request, self.series, self.machine = request, series, machine
        self.ceilings, self.bandwidths = ceilings, bandwidths
        self.bench_limit = free_limit(series, machine)
        self.pace = self._first_pace()
        self.began_s = series.spent_s
        self.models = [_Model(spec=spec) for spec in request.specs]
        self.n_shares = 0

    def units(self) -> Iterator[Callable[[], None]]:
        """What is to be done: the smallest model in full, then the searches, then the timings of the others.

        What time is left then goes to the searches that were cut short, the shortest first.
        """
        forward = self.request.at("forward")
        models = sorted(self.models, key=lambda model: step_flops(model.spec, forward).model_flops)
        order: list[tuple[_Model, Phase, str]] = []
        for kind, chosen in (("fit", models[:1]), ("bench", models[:1]), ("fit", models[1:]), ("bench", models[1:])):
            order += [(model, phase, kind) for model in chosen for phase in self.request.phases]
        self.n_shares = sum(_WEIGHTS[kind] for _, _, kind in order)
        for model, phase, kind in order:
            yield functools.partial(self._do, model, phase, kind)
        for model, phase in sorted(self._cut_short(), key=lambda cut: self._proof_s(*cut)):
            if self._proof_s(model, phase) <= self._left_s():
                self.n_shares = _WEIGHTS["fit"]
                yield functools.partial(self._do, model, phase, "fit")

    def _cut_short(self) -> list[tuple[_Model, Phase]]:
        """The searches that ended at the batch there was time for."""
        cut = [(model, phase) for model in self.models for phase in self.request.phases if phase in model.fits]
        return [(model, phase) for model, phase in cut if "capped_by" in model.fits[phase].details]

    def _proof_s(self, model: _Model, phase: Phase) -> float:
        """Seconds that the whole search takes; infinite where nothing predicts its end."""
        predicted = model.fits[phase].predicted_batch
        if not predicted:
            return math.inf
        beyond = self.request.at(phase, math.ceil(predicted * _PREDICTION_MARGIN) + 1)
        return self.pace.tries_s(model.spec, beyond, n_tries=_TRIES, n_steps=n_steps(beyond))

    def result(self, model: _Model) -> ReportResult:
        """All that is known of a model."""
        phases = self.request.phases
        return ReportResult(
            model=model.spec.name,
            counts=[count(model.spec, self.request.at(p), convention=self.request.convention) for p in phases],
            fits=[model.fits[phase] for phase in phases if phase in model.fits],
            benches=[model.benches[phase] for phase in phases if phase in model.benches],
            rooflines=self._rooflines(model),
            conventions=[row for phase in phases for row in self._conventions(model, phase)],
            skipped=model.skipped,
        )

    def _rooflines(self, model: _Model) -> list[RooflineResult]:
        """How fast each step that was timed could be; where there is no roof or no closed form, none."""
        known = roofs(
            self.machine.name,
            self.request.workload.dtype,
            self.ceilings,
            self.bandwidths,
            cache_bytes=cache_bytes(self.machine),
        )
        found = []
        for phase in self.request.phases if known else ():
            bench = model.benches.get(phase)
            if bench is None:
                continue
            try:
                found.append(roofline_under(model.spec, self.request.at(phase, bench.batch), known))
            except SpecError as error:
                model.skip(f"roofline {phase}", str(error))
        return found

    def _conventions(self, model: _Model, phase: Phase) -> list[ConventionRow]:
        """The step that was timed in a phase under every convention."""
        bench = model.benches.get(phase)
        return [] if bench is None else convention_rows(model.spec, self.request.at(phase, bench.batch), bench)

    def _do(self, model: _Model, phase: Phase, kind: str) -> None:
        """One unit; a step that fails is skipped with its reason."""
        within_s = self._left_s() * _WEIGHTS[kind] / self.n_shares
        self.n_shares -= _WEIGHTS[kind]
        try:
            if kind == "fit":
                self._fit(model, phase, within_s)
            else:
                self._bench(model, phase, within_s)
        except (ProbeError, DoesNotFitError) as error:
            model.skip(f"{kind} {phase}", str(error))

    def _fit(self, model: _Model, phase: Phase, within_s: float) -> None:
        """Search as far as the time goes; what surely does not fit, or has no time, is predicted only."""
        request = self._fit_request(model, phase, self.request.max_batch)
        needs_bytes = predicted_peak(request)(1)
        if needs_bytes is not None and needs_bytes > _SURELY_TOO_LARGE * request.limit.limit_bytes:
            model.fits[phase] = predict_batch(request)
            return
        workload = self.request.at(phase)
        most = self._most_batch(model.spec, workload, within_s, n_tries=_TRIES, n_steps=n_steps(workload))
        if most == 0:
            needs_s = self.pace.tries_s(model.spec, workload, n_tries=1, n_steps=n_steps(workload))
            model.skip(f"fit {phase}", self._why_no_time(needs_s))
            if needs_bytes is not None:
                model.fits[phase] = predict_batch(request)
            return
        most = min(most, self.request.max_batch)
        usual = min(most, predict_batch(request).predicted_batch or 1) if needs_bytes is not None else 1
        at_usual = self.request.at(phase, usual)
        with self._expecting(self.pace.tries_s(model.spec, at_usual, n_tries=_TRIES, n_steps=n_steps(workload))):
            found = fit_batch(self._fit_request(model, phase, most), self.series)
        model.fits[phase] = self._capped(request, found, most)
        for probe in found.probes:
            if probe.outcome == "ok":
                ran = self.request.at(phase, probe.batch)
                self.pace.learn(model.spec, ran, n_steps=n_steps(ran), wall_s=probe.wall_s)

    def _fit_request(self, model: _Model, phase: Phase, max_batch: int) -> FitRequest:
        return FitRequest(
            spec=model.spec,
            workload=self.request.at(phase),
            limit=self.request.limit,
            device=self.request.device,
            grid=Grid(max_batch=max_batch),
            timeout_s=self.request.timeout_s,
        )

    def _capped(self, request: FitRequest, found: FitResult, most: int) -> FitResult:
        """The result with the reason why no larger batch was tried, where time is it, and the batch predicted then."""
        if not found.details.get("capped") or most == self.request.max_batch:
            return found
        predicted = None if found.predicted_batch is None else predict_batch(request).predicted_batch
        budget = format_seconds(self.request.budget_s or 0.0)
        why = f"it would take longer than its share of --budget {budget}"
        return msgspec.structs.replace(found, predicted_batch=predicted, details={**found.details, "capped_by": why})

    def _bench(self, model: _Model, phase: Phase, within_s: float) -> None:
        """Time the largest batch that fits and that there is time for."""
        fit = model.fits.get(phase)
        if fit is not None and fit.batch is None:
            model.skip(f"bench {phase}", "not even batch 1 fits")
            return
        workload = self.request.at(phase)
        most = self._most_batch(model.spec, workload, within_s, n_tries=1, n_steps=_BENCH_STEPS)
        if most == 0:
            needs_s = self.pace.tries_s(model.spec, workload, n_tries=1, n_steps=_BENCH_STEPS)
            model.skip(f"bench {phase}", self._why_no_time(needs_s))
            return
        fits = 1 if fit is None or fit.batch is None else fit.batch
        batch = self.request.bench_batch or (fits if fits <= most else 1 << (most.bit_length() - 1))
        request = BenchRequest(
            spec=model.spec,
            workload=self.request.at(phase, batch),
            limit=self.bench_limit,
            device=self.request.device,
            timeout_s=self.request.timeout_s,
        )
        expected_s = self.pace.tries_s(model.spec, request.workload, n_tries=1, n_steps=_BENCH_STEPS)
        with self._expecting(expected_s):
            measured = bench_step(request, self.series)
        wall_s = self.pace.start_s(model.spec) + measured.timing.median_s
        self.pace.learn(model.spec, request.workload, n_steps=1, wall_s=wall_s)
        convention = find_convention(self.request.convention)
        model.benches[phase] = bench_result(
            request,
            measured,
            work=work_of(model.spec, request.workload, convention, device=request.device),
            device_name=self.machine.name,
            convention=convention,
            ceilings=self.ceilings,
            bandwidths=self.bandwidths,
            cache_bytes=cache_bytes(self.machine),
        )

    def _most_batch(self, spec: ModelSpec, workload: Workload, within_s: float, *, n_tries: float, n_steps: int) -> int:
        """The largest batch for which there is time: within its share, or 1 when all that is left is enough for it."""
        if self.request.budget_s is None:
            return MOST
        most = self.pace.largest_batch(spec, workload, within_s=within_s, n_tries=n_tries, n_steps=n_steps)
        if most == 0 and self.pace.tries_s(spec, workload, n_tries=1, n_steps=n_steps) <= self._left_s():
            return 1
        return min(most, MOST)

    @contextlib.contextmanager
    def _expecting(self, expected_s: float) -> Iterator[None]:
        """Whoever watches is told how long it will take, as long as the measurement itself cannot say."""
        tell = self.series.watch

        def show(progress: Progress) -> None:
            tell(progress if progress.left_s is not None else dataclasses.replace(progress, left_s=expected_s))

        self.series.watch = show
        try:
            yield
        finally:
            self.series.watch = tell

    def _left_s(self) -> float:
        spent_s = self.series.spent_s - self.began_s
        if self.request.budget_s is None:
            return math.inf
        return max(0.0, self.request.budget_s * (1 - _RESERVE_FRACTION) - spent_s)

    def _why_no_time(self, needs_s: float) -> str:
        left, budget = format_seconds(self._left_s()), format_seconds(self.request.budget_s or 0.0)
        return f"it would take about {format_seconds(needs_s)}; {left} of --budget {budget} are left"

    def _first_pace(self) -> Pace:
        """The pace that all plans start from; a continued run starts from the same."""

        def find() -> dict[str, Any]:
            known = [c.flops_per_s.get(self.request.workload.dtype) for c in reversed(self.ceilings)]
            return {"peak_flops_per_s": next(filter(None, known), _UNKNOWN_PEAK)}

        decided = self.series.decide("pace", find)
        return pace_of(decided["peak_flops_per_s"], device=self.request.device)


@dataclasses.dataclass(kw_only=True)
class _Model:
    """What is known of one model so far."""

    spec: ModelSpec
    fits: dict[Phase, FitResult] = dataclasses.field(default_factory=dict)
    benches: dict[Phase, BenchResult] = dataclasses.field(default_factory=dict)
    skipped: list[dict[str, str]] = dataclasses.field(default_factory=list)

    def skip(self, what: str, why: str) -> None:
        """Say that something was not run."""
        self.skipped.append({"what": what, "why": why})
