"""Roofline: the least time that each operator of a step can take on a device, what binds it, and the MFU to expect."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from flopwatch.cost.flops import step_flops
from flopwatch.cost.traffic import Linear, Op, linears, step_ops
from flopwatch.errors import InputError
from flopwatch.model.spec import ModelSpec
from flopwatch.record import RooflineResult, RooflineRow, RoofRow
from flopwatch.units import format_bytes
from flopwatch.workload import Workload

_MOST_BATCH: Final = 1 << 24  # a batch that nobody runs: the matmuls are bound by memory whatever the batch


class Roof(msgspec.Struct, frozen=True, kw_only=True):
    """What a device can do: FLOP/s by dtype, bytes per second, and the cache in which activations may stay.

    `kind` is where the rates come from, `source` says it in words.
    """

    device: str
    kind: Literal["datasheet", "measured", "user"]
    flops_per_s: Mapping[str, float]
    bandwidth_bytes_per_s: float
    peak_source: str
    bandwidth_source: str
    cache_bytes: int = 0


def roofline(spec: ModelSpec, workload: Workload, roof: Roof) -> RooflineResult:
    """The least time of one step by operator, from the closed forms.

    Raises InputError when the roof has no peak for the workload's dtype.
    """
    spec.check_seq_len(workload.seq_len)
    return roofline_of_ops(
        step_ops(spec, workload),
        model=spec.name,
        workload=workload,
        roof=roof,
        model_flops=step_flops(spec, workload).model_flops,
        compute_bound_batch=compute_bound_batch(spec, workload, roof),
        source="closed-form",
    )


def roofline_of_ops(
    ops: Iterable[Op],
    *,
    model: str,
    workload: Workload,
    roof: Roof,
    model_flops: int,
    compute_bound_batch: int | None,
    source: Literal["closed-form", "trace"],
) -> RooflineResult:
    """The least time of any list of operators, the slowest first; those of one name, stage and bound together.

    Raises InputError for a list that takes no time at all.
    """
    rows = sorted(_merged([_row(op, roof) for op in ops]), key=lambda row: -row.time_s)
    time_s = math.fsum(row.time_s for row in rows)
    if not time_s:
        raise InputError(
            f"nothing in a step of {model} takes time: it has no matmul, and what it moves stays in the cache",
            hint="give a larger batch",
        )
    compute_s = math.fsum(row.time_s for row in rows if row.bound == "compute")
    peak = peak_of(roof, workload.dtype)
    return RooflineResult(
        model=model,
        device=roof.device,
        phase=workload.phase,
        batch=workload.batch,
        seq_len=workload.seq_len,
        dtype=workload.dtype,
        time_s=time_s,
        tokens_per_s=workload.n_tokens / time_s,
        compute_bound_fraction=compute_s / time_s,
        highest_mfu=model_flops / time_s / peak,
        model_flops=model_flops,
        compute_bound_batch=compute_bound_batch,
        peak_flops_per_s=peak,
        peak_kind=roof.kind,
        peak_source=roof.peak_source,
        bandwidth_bytes_per_s=roof.bandwidth_bytes_per_s,
        bandwidth_source=roof.bandwidth_source,
        operators=rows,
        source=source,
        assumptions=_assumptions(workload, roof, source),
    )


def roof_row(roof: Roof, dtype: str) -> RoofRow:
    """The roof as it stands beside another in a record; raises InputError when it has no peak for the dtype."""
    return RoofRow(
        kind=roof.kind,
        flops_per_s=peak_of(roof, dtype),
        bandwidth_bytes_per_s=roof.bandwidth_bytes_per_s,
        source=f"{roof.peak_source}; {roof.bandwidth_source}",
    )


def peak_of(roof: Roof, dtype: str) -> float:
    """The roof's FLOP/s for a dtype; raises InputError when it has none."""
    if dtype not in roof.flops_per_s:
        known = ", ".join(roof.flops_per_s) or "none"
        raise InputError(f"no {dtype} peak of {roof.device} is known (known: {known})", hint="give --peak-tflops")
    return roof.flops_per_s[dtype]


def _row(op: Op, roof: Roof) -> RooflineRow:
    """One operator under the roof. Activations that fit in the cache are taken to be found there."""
    stays_in_cache = op.warm_bytes / op.calls <= roof.cache_bytes
    n_bytes = op.cold_bytes + (0 if stays_in_cache else op.warm_bytes)
    compute_s = op.flops / peak_of(roof, op.dtype) if op.flops else 0.0
    memory_s = n_bytes / roof.bandwidth_bytes_per_s
    return RooflineRow(
        operator=op.part,
        stage=op.stage,
        dtype=op.dtype,
        calls=op.calls,
        flops=op.flops,
        bytes=n_bytes,
        cached_bytes=op.warm_bytes if stays_in_cache else 0,
        flops_per_byte=op.flops / n_bytes if n_bytes else None,
        time_s=max(compute_s, memory_s),
        bound="compute" if compute_s >= memory_s else "memory",
    )


def _merged(rows: Iterable[RooflineRow]) -> list[RooflineRow]:
    """Rows of one operator, stage and bound as one; each was judged at its own size before."""
    sums: dict[tuple[str, str, str, str], RooflineRow] = {}
    for row in rows:
        key = (row.operator, row.stage, row.dtype, row.bound)
        sums[key] = _sum(sums[key], row) if key in sums else row
    return list(sums.values())


def _sum(one: RooflineRow, other: RooflineRow) -> RooflineRow:
    flops, n_bytes = one.flops + other.flops, one.bytes + other.bytes
    return msgspec.structs.replace(
        one,
        calls=one.calls + other.calls,
        flops=flops,
        bytes=n_bytes,
        cached_bytes=one.cached_bytes + other.cached_bytes,
        flops_per_byte=flops / n_bytes if n_bytes else None,
        time_s=one.time_s + other.time_s,
    )


def compute_bound_batch(spec: ModelSpec, workload: Workload, roof: Roof) -> int | None:
    """The smallest batch at which every linear layer of the forward pass is bound by compute; None if none is.

    A layer of [d_in, d_out] does 2 R d_in d_out FLOPs on R rows, and moves its weights once and its activations R
    times: more rows use the weights again. Where even the activations alone take longer, no batch helps.
    """
    fits = 1
    while not _all_compute_bound(linears(spec, msgspec.structs.replace(workload, batch=fits)), workload, roof):
        fits *= 2
        if fits > _MOST_BATCH:
            return None
    fails = fits // 2
    while fits - fails > 1:
        middle = (fits + fails) // 2
        if _all_compute_bound(linears(spec, msgspec.structs.replace(workload, batch=middle)), workload, roof):
            fits = middle
        else:
            fails = middle
    return fits


def _all_compute_bound(layers: Sequence[Linear], workload: Workload, roof: Roof) -> bool:
    """Whether each linear layer that is not a router or gate takes longer to compute than to load."""
    peak = peak_of(roof, workload.dtype)
    for layer in layers:
        if "router" in layer.part:  # a sliver of the work, always bound by its input
            continue
        n_activations = layer.n_activations * workload.element_bytes
        warm = 0 if n_activations <= roof.cache_bytes else n_activations
        n_bytes = layer.n_weights * workload.element_bytes * workload.n_accumulate + warm
        if layer.flops / peak < n_bytes / roof.bandwidth_bytes_per_s:
            return False
    return True


def _assumptions(workload: Workload, roof: Roof, source: str) -> list[str]:
    """What the prediction rests on, in words."""
    said = ["each operator takes the longer of FLOPs / peak and bytes / bandwidth, one after the other"]
    if source == "closed-form":
        said.append("bytes are compulsory: each operand read once, each result written once; fused elementwise work")
        if workload.attention != "math" and workload.ops == "fused":
            said.append(
                "attention is one kernel that skips the scores above the diagonal, which the MFU's convention counts:"
                " long sequences may show more than 100 %"
            )
    else:
        said.append("bytes are those of every tensor read and written; a fused kernel's scores are counted in full")
    if roof.cache_bytes:
        said.append(f"activations of an operator that fit in {format_bytes(roof.cache_bytes)} are found in the cache")
    return said
