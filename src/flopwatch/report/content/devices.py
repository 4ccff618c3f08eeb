"""What is shown of devices: one in full, many as a table of their default dense peaks."""

from __future__ import annotations

from collections.abc import Sequence

from flopwatch import units
from flopwatch.record import DeviceResult, PeakRow
from flopwatch.report.document import Block, Cell, Column, Fact, Facts, Heading, Note, Table
from flopwatch.report.messages import Words

_IN_FULL = 3
_DTYPES = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8")


def blocks(results: Sequence[DeviceResult], words: Words) -> list[Block]:
    """Up to three devices with every peak and its source; more as one row each."""
    if len(results) > _IN_FULL:
        return [_overview(results, words)]
    return [block for result in results for block in _one(result, words)]


def _one(result: DeviceResult, words: Words) -> list[Block]:
    name = _name(result)
    return [
        Heading(text=f"{result.vendor} {name}" if result.vendor.lower() not in name.lower() else name),
        Facts(
            rows=[
                Fact(label=words("devices.memory"), value=_memory(result, words)),
                Fact(label=words("devices.bandwidth"), value=_bandwidth(result, words)),
            ]
        ),
        Table(
            title=words("devices.peaks"),
            columns=[
                Column(name=words("col.dtype"), is_number=False),
                Column(name=words("col.unit"), is_number=False),
                Column(name=words("col.accumulate"), is_number=False, rank=1),
                Column(name=words("col.dense")),
                Column(name=words("col.sparse"), rank=2),
                Column(name=words("col.source"), is_number=False),
            ],
            rows=[_peak_row(peak, words) for peak in result.peaks],
        ),
        Note(text=words("devices.default"), style="dim"),
    ]


def _peak_row(peak: PeakRow, words: Words) -> list[Cell | str]:
    return [
        Cell(text=f"{peak.dtype} *" if peak.is_default else peak.dtype, style="strong" if peak.is_default else ""),
        words.said(peak.unit),
        peak.accumulate or "",
        _rate(peak.dense_flops_per_s, words),
        _rate(peak.sparse_flops_per_s, words),
        peak.source,
    ]


def _overview(results: Sequence[DeviceResult], words: Words) -> Table:
    used = [d for d in _DTYPES if any(p.dtype == d and p.is_default for r in results for p in r.peaks)]
    ranks = {"int8": 4, "fp16": 3, "fp32": 2, "fp8": 2, "tf32": 2}
    return Table(
        title=words("devices.peaks"),
        columns=[
            Column(name=words("col.device"), is_number=False),
            *(Column(name=dtype, rank=ranks.get(dtype, 0)) for dtype in used),
            Column(name=words("col.memory"), rank=1),
            Column(name=words("col.bandwidth"), rank=1),
        ],
        rows=[row for result in results for row in _rows(result, used, words)],
    )


def _rows(result: DeviceResult, dtypes: Sequence[str], words: Words) -> list[list[Cell | str]]:
    """The published peaks of a device, and below them those that were measured on this machine."""
    published: list[Cell | str] = [
        Cell(text=_name(result), style="strong"),
        *(_default_rate(result, dtype, words) for dtype in dtypes),
        _memory(result, words),
        _bandwidth(result, words),
    ]
    measured = {peak["dtype"]: peak for peak in result.details.get("measured_peaks", ())}
    if not measured:
        return [published]
    bandwidths = [peak["bandwidth_bytes_per_s"] for peak in measured.values() if peak["bandwidth_bytes_per_s"]]
    return [
        published,
        [
            words("devices.measured", since=min(peak["created"][:10] for peak in measured.values())),
            *(_rate(measured[dtype]["flops_per_s"] if dtype in measured else None, words) for dtype in dtypes),
            "",
            units.format_bandwidth(max(bandwidths)) if bandwidths else words("na"),
        ],
    ]


def _name(result: DeviceResult) -> str:
    return f"{result.device} {result.variant}" if result.variant and result.variant != "-" else result.device


def _default_rate(result: DeviceResult, dtype: str, words: Words) -> str:
    for peak in result.peaks:
        if peak.dtype == dtype and peak.is_default:
            return _rate(peak.dense_flops_per_s, words)
    return words("na")


def _rate(flops_per_s: float | None, words: Words) -> str:
    return words("na") if flops_per_s is None else units.format_rate(flops_per_s)


def _memory(result: DeviceResult, words: Words) -> str:
    return words("na") if result.memory_bytes is None else units.format_bytes(result.memory_bytes)


def _bandwidth(result: DeviceResult, words: Words) -> str:
    rate = result.bandwidth_bytes_per_s
    return words("na") if rate is None else units.format_bandwidth(rate)
