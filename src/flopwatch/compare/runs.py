"""Two records side by side: what changed, figure by figure, and whether that is more than noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from flopwatch.errors import InputError
from flopwatch.measure.timing import timing_of
from flopwatch.record import (
    RESULT_TYPES,
    BenchResult,
    ChangeRow,
    CompareResult,
    CountResult,
    FitResult,
    MemoryResult,
    MfuResult,
    PeakResult,
    Record,
    ReportResult,
    StepTime,
)
from flopwatch.units import format_rate

RUN_TO_RUN_FRACTION: Final = 0.03
"""Added to both ends of a timing's interval: samples of one process do not show how processes differ (memory layout,
clock, neighbours); repetitions of one benchmark on a quiet machine stay within this."""
FEWEST_SAMPLES: Final = 3
_INNER: Final = {"counts": "count", "fits": "fit", "benches": "bench"}
_MACHINE: Final = (
    *("device", "cpu", "machine", "os", "torch", "python", "n_threads"),
    *("n_logical_cores", "n_affinity_cores", "quota_cores"),
    *("driver", "sm_count", "device_memory_bytes", "power_limit_w", "is_mig"),
)
_SET_UP: Final = ("optimizer", "compiled", "loss", "convention", "n_threads", "dtype")
_OF_MFU: Final = ("device", "dtype", "recompute", "n_devices")
_OF_ITEMS: Final = ("batch", "seq_len", "phase", "dtype")  # of a workload: each result says its own
_MEASURED: Final = ("fit", "bench", "peak")  # whose notes say what disturbed it
_ONE_TRY: Final = "one measurement on a side: its noise is not known"
_FEW: Final = f"fewer than {FEWEST_SAMPLES} samples on a side: their noise is not known"


class _Figure(NamedTuple):
    """A figure, and where it comes from: counted (exact), timed (samples), or measured once (neither)."""

    value: float | None
    is_exact: bool = False
    step: StepTime | None = None
    falls_with_time: bool = False
    peak_flops_per_s: float | None = None


class Lost(NamedTuple):
    """What the second record has nothing of that the first one has, and the names of the figures."""

    said: str
    figures: tuple[str, ...]


class Comparison(NamedTuple):
    """What changed for everything that is in both records, the warnings that belong to it, and what got lost."""

    results: list[CompareResult]
    warnings: list[str]
    lost: list[Lost]


class _Item(NamedTuple):
    """One result: what it is of, the size it is at, its figures, how the step was set up, and what makes it less sure.

    `uncounted` are the calls by operator of what looks like a matmul and has no formula: FLOPs that are missing.
    """

    of: tuple[str, str, str | None, str | None]
    size: tuple[int | None, int | None]
    figures: dict[str, _Figure]
    set_up: dict[str, Any]
    doubts: list[str]
    uncounted: dict[str, int]


def compare_records(before: Record, after: Record) -> Comparison:
    """What changed from one record to the other.

    Raises InputError for records of different methods or kinds, and for two that have nothing in common.
    """
    if before.method != after.method:
        raise InputError(
            f"the records were measured by methods {before.method} and {after.method}, which do not compare",
            hint="measure both with one version of flopwatch",
        )
    left, right = list(_items(before)), list(_items(after))
    warnings = _machine_warnings(before.environment, after.environment)
    warnings += _workload_warnings(before.request, after.request)
    warnings += _model_warnings(before.request, after.request)
    pairs: list[tuple[_Item, _Item]] = []
    for old in list(left):
        new = next((item for item in right if item[:2] == old[:2]), None)
        if new is not None:
            left.remove(old)
            right.remove(new)
            warnings += _pair_warnings(old, new)
            pairs.append((old, new))
    for old in list(left):
        news = [item for item in right if item.of == old.of]
        if len(news) == 1 and sum(item.of == old.of for item in left) == 1:
            left.remove(old)
            right.remove(news[0])
            warnings.append(f"{_name(old)}: batch x seq is {_size(old)} before and {_size(news[0])} after")
            warnings += _pair_warnings(old, news[0])
            pairs.append((old, news[0]))
    warnings += [f"{_name(item)} is only in the first record" for item in left]
    warnings += [f"{_name(item)} is only in the second record" for item in right]
    for kind in {before.kind, after.kind} - {*_FIGURES, "report"}:
        raise InputError(
            f"records of {kind} are not compared",
            hint=f"those of {', '.join(_FIGURES)} and report are",
        )
    if not pairs:
        raise InputError(
            f"the records have nothing in common ({before.kind} and {after.kind})",
            hint="compare two runs of the same command on the same models",
        )
    lost = [
        Lost(
            f"{_name(item)} is not in the second record",
            tuple(name for name, figure in item.figures.items() if figure.value),
        )
        for item in left
    ]
    lost += [hidden for pair in pairs for hidden in _hidden(*pair)]
    return Comparison([_compare(*pair) for pair in pairs], warnings, lost)


def _items(record: Record) -> Iterator[_Item]:
    """Every result of a record that has figures, those within a report too."""
    for result in record.typed_results():
        if isinstance(result, ReportResult):
            for name, kind in _INNER.items():
                yield from (_item(inner, kind) for inner in msgspec.structs.asdict(result)[name])
        elif record.kind in RESULT_TYPES and record.kind in _FIGURES:
            yield _item(result, record.kind)


def _item(result: Any, kind: str) -> _Item:
    """The result as what it is of and its figures; a convention is part of what a count is of."""
    fields = msgspec.structs.asdict(result)
    name = fields.get("model") or fields["device"]
    variant = fields["convention"] if kind in {"count", "mfu"} else fields.get("dtype")
    size = (None, fields.get("seq_len")) if kind == "fit" else (fields.get("batch"), fields.get("seq_len"))
    set_up = {key: fields["details"][key] for key in _SET_UP if key in fields["details"]}
    set_up |= {key: fields[key] for key in _OF_MFU if kind == "mfu"}
    set_up |= {"source": fields["source"]} if kind in {"count", "memory"} else {}
    set_up |= {"source": "probes" if fields["probes"] else "prediction"} if kind == "fit" else {}
    uncounted = {one.op: one.calls for one in fields.get("uncounted", ()) if one.looks_like_matmul}
    doubts = [
        f"not counted, and it looks like a matmul: {op} ({n} calls): FLOPs are too low" for op, n in uncounted.items()
    ]
    if kind in _MEASURED:
        doubts += fields["details"].get("notes", ())
    of = (kind, name, fields.get("phase"), variant)
    return _Item(of, size, _FIGURES[kind](result), set_up, doubts, uncounted)


def _count_figures(result: CountResult) -> dict[str, _Figure]:
    return {
        "flops": _Figure(result.flops.total, is_exact=True),
        "forward_flops": _Figure(result.flops.forward, is_exact=True),
        "backward_flops": _Figure(result.flops.backward, is_exact=True),
        "recompute_flops": _Figure(result.flops.recompute, is_exact=True),
        "flops_per_token": _Figure(result.flops.per_token, is_exact=True),
        "params": _Figure(result.params.total, is_exact=True),
    }


def _memory_figures(result: MemoryResult) -> dict[str, _Figure]:
    parts = {f"{name}_bytes": _Figure(n, is_exact=True) for name, n in result.parts.items()}
    return {"peak_bytes": _Figure(result.peak_bytes, is_exact=True), **parts}


def _fit_figures(result: FitResult) -> dict[str, _Figure]:
    return {
        "batch": _Figure(result.batch, is_exact=True),
        "limit_bytes": _Figure(result.limit_bytes, is_exact=True),
        "predicted_peak_bytes": _Figure(result.predicted_peak_bytes, is_exact=True),
        "measured_peak_bytes": _Figure(result.measured_peak_bytes),
    }


def _bench_figures(result: BenchResult) -> dict[str, _Figure]:
    step = result.step_s
    figures = {
        "step_s": _Figure(step.median, step=step),
        "tokens_per_s": _Figure(result.tokens_per_s, step=step, falls_with_time=True),
        "model_flops_per_s": _Figure(result.model_flops_per_s, step=step, falls_with_time=True),
        "hardware_flops_per_s": _Figure(result.hardware_flops_per_s, step=step, falls_with_time=True),
        "peak_memory_bytes": _Figure(result.peak_memory_bytes),
    }
    for row in result.utilization:
        name = f"{row.name}.{row.convention}.{row.peak_kind}"
        figures[name] = _Figure(row.fraction, step=step, falls_with_time=True, peak_flops_per_s=row.peak_flops_per_s)
    return figures


def _peak_figures(result: PeakResult) -> dict[str, _Figure]:
    return {
        "flops_per_s": _Figure(result.flops_per_s),
        "bandwidth_bytes_per_s": _Figure(result.bandwidth_bytes_per_s),
    }


def _mfu_figures(result: MfuResult) -> dict[str, _Figure]:
    return {
        "tokens_per_s": _Figure(result.tokens_per_s, is_exact=True),
        "flops_per_token": _Figure(result.flops_per_token, is_exact=True),
        "mfu": _Figure(result.mfu, is_exact=True, peak_flops_per_s=result.peak_flops_per_s),
        "hfu": _Figure(result.hfu, is_exact=True, peak_flops_per_s=result.peak_flops_per_s),
    }


_FIGURES: Final[Mapping[str, Any]] = {
    "count": _count_figures,
    "memory": _memory_figures,
    "fit": _fit_figures,
    "bench": _bench_figures,
    "peak": _peak_figures,
    "mfu": _mfu_figures,
}


def _compare(old: _Item, new: _Item) -> CompareResult:
    kind, name, phase, variant = new.of
    batch, seq_len = new.size
    both = [figure for figure in old.figures if figure in new.figures]
    pairs = [(figure, old.figures[figure], new.figures[figure]) for figure in both]
    changes = [_change(*pair) for pair in pairs if pair[1].value or pair[2].value]  # neither has it: nothing to show
    return CompareResult(
        model=name,
        what=kind,
        phase=phase,
        batch=batch,
        seq_len=seq_len,
        dtype=None if kind in {"count", "mfu"} else variant,
        changes=changes,
        details={"convention": variant} if kind in {"count", "mfu"} else {},
    )


def _change(name: str, old: _Figure, new: _Figure) -> ChangeRow:
    """One figure before and after; a change from zero or to nothing has no percentage but is a change."""
    before, after = old.value, new.value
    fraction = interval = None
    beyond: bool | None = before != after
    reason = None
    if before is not None and after is not None and before:
        fraction = after / before - 1
    if not old.is_exact and before is not None and after is not None:
        interval = _interval(old, new)
        beyond = None if interval is None else not interval[0] <= 0 <= interval[1]
        reason = None if interval else (_FEW if old.step is not None else _ONE_TRY)
    return ChangeRow(
        figure=name,
        before=before,
        after=after,
        change_fraction=fraction,
        interval_fraction=interval,
        beyond_noise=beyond,
        is_exact=old.is_exact,
        reason=reason,
    )


def _interval(old: _Figure, new: _Figure) -> list[float] | None:
    """Between what the change lies with 95 % confidence: both medians' intervals, and what differs from run to run."""
    if old.step is None or new.step is None or not old.value or not new.value:
        return None
    if min(len(old.step.samples), len(new.step.samples)) < FEWEST_SAMPLES:
        return None
    was, now = (timing_of(figure.step.samples, n_warmup=0) for figure in (old, new) if figure.step is not None)
    low, high = now.median_low_s / was.median_high_s, now.median_high_s / was.median_low_s  # of the step's time
    if new.falls_with_time:
        # The figure itself may change for another reason too (more tokens in a step): scale from its own change.
        scale = (new.value / old.value) * (now.median_s / was.median_s)
        low, high = scale / high, scale / low
    return [low - 1 - RUN_TO_RUN_FRACTION, high - 1 + RUN_TO_RUN_FRACTION]


def _machine_warnings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between the two machines, so that a change may be theirs."""
    return [
        f"{name} differs: {before.get(name)} before, {after.get(name)} after"
        for name in _MACHINE
        if before.get(name) != after.get(name)
    ]


def _workload_warnings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What was asked of the step and differs; a record that does not say is not asked."""
    old, new = before.get("workload"), after.get("workload")
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return []
    return [said for key, said in _differing(old, new) if key not in _OF_ITEMS]


def _model_warnings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Fields of models that have one name in both requests and are not the same network."""
    old, new = _models(before), _models(after)
    return [f"{name}: {said}" for name in old if name in new for _, said in _differing(old[name], new[name])]


def _models(asked: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The specs of a request by name, where it has them; of the user's own code nothing is known but its files."""
    several = asked.get("models")
    given = [asked.get("spec"), *(several if isinstance(several, list) else [])]
    return {one["name"]: one for one in given if isinstance(one, Mapping) and "name" in one}


def _pair_warnings(old: _Item, new: _Item) -> list[str]:
    """What differs between two results but for their figures, and the figures that only one of them has."""
    only = [(name, "first") for name in old.figures if name not in new.figures]
    only += [(name, "second") for name in new.figures if name not in old.figures]
    return [
        *_set_up_warnings(old, new),
        *_peak_warnings(old, new),
        *(f"{_name(old)}: {name} is only in the {which} record" for name, which in only),
        *(f"{_name(old)}, before: {note}" for note in old.doubts),
        *(f"{_name(old)}, after: {note}" for note in new.doubts),
    ]


def _hidden(old: _Item, new: _Item) -> list[Lost]:
    """FLOPs that the second count cannot see and the first did: the same work would look like less."""
    figures = tuple(name for name in new.figures if name != "params")
    return [
        Lost(
            f"{_name(new)} has {op} ({n} calls) in the second record, which looks like a matmul and is not counted",
            figures,
        )
        for op, n in new.uncounted.items()
        if n > old.uncounted.get(op, 0)
    ]


def _peak_warnings(old: _Item, new: _Item) -> list[str]:
    """Shares of a peak that is another one by more than it varies from run to run: they change without the step."""
    peaks = [
        (name, old.figures[name].peak_flops_per_s, figure.peak_flops_per_s)
        for name, figure in new.figures.items()
        if name in old.figures
    ]
    return [
        f"{_name(old)}: {name} is of a peak of {format_rate(was)} before and {format_rate(now)} after"
        for name, was, now in peaks
        if was is not None and now is not None and abs(now / was - 1) > RUN_TO_RUN_FRACTION
    ]


def _set_up_warnings(old: _Item, new: _Item) -> list[str]:
    """What of the step itself differs, so that a change may be that; a record that does not say is not asked."""
    return [f"{_name(old)}: {said}" for _, said in _differing(old.set_up, new.set_up)]


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The keys that both have with different values, and what is said of each."""
    for key in old:
        if key in new and old[key] != new[key]:
            yield key, f"{key} is {old[key]} before and {new[key]} after"


def _name(item: _Item) -> str:
    return " ".join(part for part in (item.of[1], item.of[2], item.of[0], item.of[3]) if part)


def _size(item: _Item) -> str:
    return " x ".join("?" if n is None else str(n) for n in item.size)


def figure_names(results: Sequence[CompareResult]) -> list[str]:
    """The names of all figures that were compared, each once."""
    return list(dict.fromkeys(row.figure for result in results for row in result.changes))
