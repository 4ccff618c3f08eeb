"""fw.roofline: how fast a step could be on a device, operator by operator, and what binds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from flopwatch.api.bandwidth import datasheet_bandwidth
from flopwatch.api.ceilings import datasheet_ceiling
from flopwatch.api.count import default_seq_len, resolve_spec
from flopwatch.api.own import OwnOperators, own_operators, resolve_model, settle
from flopwatch.api.report_parts import roofs
from flopwatch.compare.roofline import Roof, compute_bound_batch, roof_row, roofline_of_ops
from flopwatch.compare.roofline import roofline as roofline_of_spec
from flopwatch.cost.flops import step_flops
from flopwatch.cost.traffic import Op
from flopwatch.device.catalog import load_device
from flopwatch.device.machine import Machine
from flopwatch.errors import InputError
from flopwatch.measure.peak import StoredPeak, peak_here
from flopwatch.measure.series import ProbeSeries
from flopwatch.model.own import Model, OwnModel
from flopwatch.model.spec import ModelSpec
from flopwatch.record import RooflineResult, RoofRow
from flopwatch.store import Store
from flopwatch.units import format_percent
from flopwatch.workload import Workload

if TYPE_CHECKING:
    from flopwatch.trace.result import Trace, Work

_ONE_BATCH: Final = "not known of your own code, which is traced at this batch"


def roofline(
    model: str | Model,
    workload: Workload | None = None,
    *,
    device: str | Roof,
    changes: Mapping[str, str] | None = None,
) -> RooflineResult:
    """The least time of one step on a device of the catalogue, or under a Roof, in closed form, without torch.

    The workload is a bf16 training step of batch 1 when left out. Code of the user's (`package.module:factory`) has no
    closed form: it is traced in a process of its own. Raises InputError for a device, dtype or bandwidth that is not
    known.
    """
    spec = resolve_model(model, changes)
    work = workload or Workload(seq_len=default_seq_len(spec), phase="train", dtype="bf16")
    if isinstance(spec, OwnModel):
        series, is_given = ProbeSeries(), workload is not None
        work = settle(spec, work, series, is_dtype_given=is_given, is_seq_len_given=is_given)
        roof = device if isinstance(device, Roof) else datasheet_roof(device, work.dtype)
        return roofline_of_own(spec, work, series, roof=roof)
    roof = device if isinstance(device, Roof) else datasheet_roof(device, work.dtype)
    return roofline_of_spec(spec, work, roof)


def roofline_by_trace(
    model: str | ModelSpec,
    workload: Workload,
    *,
    roof: Roof,
    changes: Mapping[str, str] | None = None,
) -> RooflineResult:
    """The least time of one step of the reference network, each operator as it really runs, from a trace.

    Bytes are those of the tensors that each operator reads and writes, so unfused elementwise work is all there.
    """
    from flopwatch.reference.model import build_model
    from flopwatch.reference.step import make_step
    from flopwatch.trace.api import trace

    spec = resolve_spec(model, changes)
    spec.check_seq_len(workload.seq_len)
    module = build_model(spec, ops=workload.ops, recompute=workload.recompute, device="meta")
    step = make_step(module, workload)
    step()  # the first step makes the optimizer's state, which no later one does
    made = trace(step, model=module, attention=workload.attention, memory_events=False)
    return roofline_of_ops(
        ops_of_trace(made, workload),
        model=spec.name,
        workload=workload,
        roof=roof,
        model_flops=step_flops(spec, workload).model_flops,
        compute_bound_batch=compute_bound_batch(spec, workload, roof),
        source="trace",
    )


def roofline_of_own(
    own: OwnModel,
    workload: Workload,
    series: ProbeSeries,
    *,
    roof: Roof,
    timeout_s: float = 600.0,
) -> RooflineResult:
    """The least time of one step of the user's code, each operator as it really runs, from a trace of it.

    The operators are those that a CPU runs. Matmuls in a dtype without a peak in the roof stand at that of the weights'
    dtype, which is said. Raises InputError for autocast, and for a roof that does not know the weights' dtype.
    """
    check_own_roofline(workload)
    found = own_operators(own, workload, series, timeout_s=timeout_s)
    work = msgspec.structs.replace(workload, batch=found.batch, seq_len=found.seq_len, dtype=found.dtype)
    ops = [
        _op(
            (name, stage, dtype, flops, n_bytes),
            calls,
            dtype=found.dtype if dtype not in roof.flops_per_s or dtype is None else dtype,
        )
        for name, stage, dtype, flops, n_bytes, calls in found.operators
    ]
    result = roofline_of_ops(
        ops, model=own.name, workload=work, roof=roof, model_flops=found.model_flops, compute_bound_batch=None,
        source="trace",
    )  # fmt: skip
    missing = [entry.op for entry in found.uncounted if entry.looks_like_matmul]
    said = [*result.assumptions, "operators are those that a CPU runs", *found.notes, *_lent(found, roof)]
    if missing:
        said.append(f"not counted, so that the least time is too low: {', '.join(missing)}")
    return msgspec.structs.replace(
        result, assumptions=said, details=result.details | {"compute_bound_reason": _ONE_BATCH}
    )


def check_own_roofline(workload: Workload) -> None:
    """Raise InputError for a step of the user's code whose roofline is not known."""
    if workload.precision != "pure":
        raise InputError(
            f"--precision {workload.precision} has no roofline: its dtypes have peaks of their own", hint="leave it out"
        )


def ops_of_trace(trace: Trace, workload: Workload) -> Iterable[Op]:
    """The operators of a trace of a network in fp32, equal ones together, at the workload's dtype.

    The reference network is traced without data in fp32; bytes and dtype are scaled to the workload's.
    """
    for (name, stage, dtype, flops, n_bytes), calls in trace.distinct().items():
        scaled = (name, stage, dtype, flops, n_bytes * workload.element_bytes // 4)
        yield _op(scaled, calls, dtype=workload.dtype)


def _op(work: Work, calls: int, *, dtype: str) -> Op:
    """That many calls of an operator, at the peak of a dtype."""
    name, stage, _, flops, n_bytes = work
    return Op(
        part=name.removeprefix("aten."),
        stage=stage,  # type: ignore[arg-type]  # the trace's phases are the stages
        dtype=dtype,
        calls=calls,
        flops=flops * calls,
        warm_bytes=n_bytes * calls,
    )


def _lent(found: OwnOperators, roof: Roof) -> list[str]:
    """Which share of the FLOPs stands at another dtype's peak, for want of one of their own."""
    flops: dict[str, int] = {}
    for _, _, dtype, each, _, calls in found.operators:
        if each and dtype is not None and dtype != found.dtype and dtype not in roof.flops_per_s:
            flops[dtype] = flops.get(dtype, 0) + each * calls
    total = sum(each * calls for *_, each, _, calls in found.operators)
    return [
        f"{format_percent(n / total)} of the FLOPs are {dtype} and stand at the peak of {found.dtype}"
        for dtype, n in flops.items()
    ]


def datasheet_roof(
    name: str, dtype: str, *, peak_tflops: float | None = None, bandwidth_gb_per_s: float | None = None
) -> Roof:
    """The roof of a device of the catalogue (or of the user's file), with what the user knows better.

    Raises InputError for an unknown or ambiguous device, and for a peak or bandwidth that nobody published.
    """
    device = load_device(name, dtype=dtype)
    peak = device.peak(dtype)
    rate = peak_tflops * 1e12 if peak_tflops is not None else peak.dense_flops_per_s if peak is not None else None
    bandwidth = bandwidth_gb_per_s * 1e9 if bandwidth_gb_per_s is not None else device.bandwidth_bytes_per_s
    if rate is None:
        raise InputError(device.why_no_peak(dtype) or f"no {dtype} peak of {name}", hint="give --peak-tflops")
    if bandwidth is None:
        raise InputError(
            f"no bandwidth of {device.label} is known", hint="give --bandwidth-gb-per-s, or name a variant"
        )
    is_user = peak_tflops is not None or device.origin == "user"
    return Roof(
        device=device.label,
        kind="user" if is_user else "datasheet",
        flops_per_s={dtype: rate},
        bandwidth_bytes_per_s=bandwidth,
        peak_source="--peak-tflops" if peak_tflops is not None else device.peak_source(dtype) or device.label,
        bandwidth_source="--bandwidth-gb-per-s"
        if bandwidth_gb_per_s is not None
        else f"{device.label}, {device.origin}",
        cache_bytes=int((device.l2_mib or 0) * 2**20),
    )


def roofs_beside(machine: Machine, dtype: str) -> list[RoofRow]:
    """The datasheet's roof of this machine, to stand beside the measured one; nothing where it is not known."""
    known = roofs(machine.name, dtype, [datasheet_ceiling(machine, dtype)], [datasheet_bandwidth(machine)])
    return [roof_row(roof, dtype) for roof in known]


def measured_roof(
    machine: Machine,
    dtype: str,
    store: Store,
    *,
    peak_tflops: float | None = None,
    bandwidth_gb_per_s: float | None = None,
    on_measure: Callable[[str], None] | None = None,
) -> Roof:
    """The roof of this machine: the peak and bandwidth measured here, now if none holds in the store."""
    stored = peak_here(dtype, machine, store, on_measure=on_measure)
    rate = peak_tflops * 1e12 if peak_tflops is not None else stored.result.flops_per_s
    measured = stored.result.bandwidth_bytes_per_s
    bandwidth = bandwidth_gb_per_s * 1e9 if bandwidth_gb_per_s is not None else measured
    if bandwidth is None:
        raise InputError(f"no bandwidth of {machine.name} was measured", hint="run `flopwatch peak`")
    return Roof(
        device=machine.name,
        kind="measured" if peak_tflops is None else "user",
        flops_per_s={dtype: rate},
        bandwidth_bytes_per_s=bandwidth,
        peak_source=stored.source if peak_tflops is None else "--peak-tflops",
        bandwidth_source="measured here" if bandwidth_gb_per_s is None else "--bandwidth-gb-per-s",
        cache_bytes=_cache_bytes(machine, stored),
    )


def _cache_bytes(machine: Machine, stored: StoredPeak) -> int:
    """The cache in which activations may stay: as the bandwidth measurement saw it, else the CPU's."""
    measured: dict[str, Any] | None = stored.result.details.get("bandwidth")
    if measured is not None and measured.get("cache_bytes") is not None:
        return int(measured["cache_bytes"])
    return machine.cpu.cache_bytes or 0 if machine.kind == "cpu" else 0
