"""Decoding: the bytes that a new token makes the device read, and the share of its memory bandwidth that this is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from flopwatch.cost.flops import step_flops
from flopwatch.cost.traffic import step_ops
from flopwatch.errors import SpecError
from flopwatch.model.spec import ModelSpec
from flopwatch.record import BandwidthRow, DecodeFigures
from flopwatch.units import format_bandwidth, format_bytes, format_percent
from flopwatch.workload import Workload


class BandwidthCeiling(msgspec.Struct, frozen=True, kw_only=True):
    """The memory bandwidth of a device of one kind and where it comes from, or the reason why it is not known."""

    kind: Literal["datasheet", "measured"]
    bytes_per_s: float | None = None
    source: str | None = None
    reason: str | None = None


class DecodeBytes(msgspec.Struct, frozen=True, kw_only=True):
    """What one decoding step must read at least: each matmul's weights once, and every sequence's keys and values."""

    weights_bytes: int
    kv_bytes: int

    @property
    def total_bytes(self) -> int:
        """Both together."""
        return self.weights_bytes + self.kv_bytes


def decode_bytes(spec: ModelSpec, workload: Workload) -> DecodeBytes:
    """The bytes of a decoding step in closed form; raises SpecError for a network whose bytes are not known.

    Biases, norms, activations and the few rows of the embedding that are looked up are left out: under a percent.
    """
    ops = step_ops(spec, workload)
    return DecodeBytes(
        weights_bytes=sum(op.cold_bytes for op in ops if op.is_matmul),
        kv_bytes=sum(op.cold_bytes for op in ops if not op.is_matmul),
    )


def decode_figures(
    spec: ModelSpec, workload: Workload, *, step_s: float, ceilings: Sequence[BandwidthCeiling]
) -> DecodeFigures:
    """Time, FLOPs and bytes of a new token, and memory-bandwidth utilization (MBU) against each ceiling."""
    known = reason = None
    try:
        known = decode_bytes(spec, workload)
    except SpecError as error:
        reason = str(error)
    rows = [] if known is None else [_row(known.total_bytes / step_s, ceiling) for ceiling in ceilings]
    return DecodeFigures(
        time_per_token_s=step_s,
        n_keys=workload.seq_len,
        flops_per_token=step_flops(spec, workload).model_flops / workload.n_tokens,
        bytes_per_token=None if known is None else known.total_bytes / workload.n_tokens,
        weights_bytes=None if known is None else known.weights_bytes,
        kv_bytes=None if known is None else known.kv_bytes,
        utilization=rows,
        reason=reason,
    )


def experts_note(spec: ModelSpec, workload: Workload) -> list[str]:
    """That the bytes of a step hang on which experts its tokens choose, where they can choose the same ones."""
    moe = spec.moe
    if moe is None:
        return []
    n_read = min(moe.n_experts, workload.n_tokens * moe.experts_per_token)
    if n_read == moe.experts_per_token:
        return []
    return [
        f"which experts {workload.n_tokens} tokens choose is not known: {n_read} of {moe.n_experts} in each layer are"
        f" taken to be read, {moe.experts_per_token} is the least: bytes and MBU may be lower"
    ]


def decode_warnings(figures: DecodeFigures, *, cache_bytes: int) -> list[str]:
    """What makes MBU no measure of memory: a share above 100 %, or bytes that a cache can hold."""
    read = (figures.weights_bytes or 0) + (figures.kv_bytes or 0)
    if 0 < read <= cache_bytes:
        return [
            f"a decoding step reads {format_bytes(read)}, which the caches ({format_bytes(cache_bytes)}) can hold:"
            " MBU then says nothing about memory"
        ]
    return [
        f"MBU {format_percent(row.fraction)} of {format_bandwidth(row.bandwidth_bytes_per_s)} is above 100 %: a cache"
        " held part of it, or the bandwidth was measured on a busy device; measure it again with `flopwatch peak`"
        for row in figures.utilization
        if row.fraction is not None and row.fraction > 1 and row.bandwidth_bytes_per_s is not None
    ]


def _row(bytes_per_s: float, ceiling: BandwidthCeiling) -> BandwidthRow:
    return BandwidthRow(
        fraction=None if ceiling.bytes_per_s is None else bytes_per_s / ceiling.bytes_per_s,
        bytes_per_s=bytes_per_s,
        bandwidth_bytes_per_s=ceiling.bytes_per_s,
        bandwidth_kind=ceiling.kind,
        bandwidth_source=ceiling.source,
        reason=ceiling.reason,
    )
