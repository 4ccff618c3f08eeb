"""What is shown of MFU from a known speed: one line a convention, its denominator beside it."""

from __future__ import annotations

from collections.abc import Sequence

from flopwatch import units
from flopwatch.record import MfuResult
from flopwatch.report.content.figures import above_peak_notes, convention_text, rate_text, utilization_text
from flopwatch.report.document import Block, Cell, Column, Fact, Facts, Heading, Note, Table
from flopwatch.report.messages import Words


def blocks(results: Sequence[MfuResult], words: Words) -> list[Block]:
    """The runs one after another; one run under several conventions is a table."""
    shown: list[Block] = []
    for group in _by_run(results):
        first = group[0]
        device = first.device or words("mfu.no_device")
        title = words(
            "mfu.title_one" if first.n_devices == 1 else "mfu.title",
            model=first.model,
            tokens=rate_text(first.tokens_per_s),
            n=f"{first.n_devices:,}",
            device=device,
        )
        shown.append(Heading(text=title))
        shown += [Facts(rows=_facts(first, words))] if len(group) == 1 else [_table(group, words)]
        shown += above_peak_notes([row for result in group for row in result.utilization], words)
        notes = dict.fromkeys(note for result in group for note in result.notes)
        shown += [Note(text=words("mfu.note", note=note), style="dim") for note in notes]
    return shown


def _by_run(results: Sequence[MfuResult]) -> list[list[MfuResult]]:
    groups: dict[tuple[object, ...], list[MfuResult]] = {}
    for result in results:
        key = (result.model, result.tokens_per_s, result.n_devices, result.device, result.seq_len, result.dtype)
        groups.setdefault(key, []).append(result)
    return list(groups.values())


def _facts(result: MfuResult, words: Words) -> list[Fact]:
    per_token = words("mfu.per_token_value", flops=units.format_flops(result.flops_per_token))
    rows = [
        Fact(label=words("count.convention"), value=convention_text(result.convention, result.details, words)),
        Fact(label=words("mfu.per_token"), value=per_token),
        Fact(label=words("mfu.rate"), value=words("mfu.rate_value", rate=_rate(result.model_tflops_per_device))),
    ]
    hardware = result.hardware_tflops_per_device
    if hardware is not None and hardware != result.model_tflops_per_device:
        rate = words("mfu.rate_value", rate=_rate(hardware))
        rows.append(Fact(label=words("mfu.hardware_rate"), value=rate))
    rows.append(Fact(label="MFU", value=_share(result, result.mfu, words), style="strong"))
    if result.hfu is None or result.hfu != result.mfu:
        rows.append(Fact(label="HFU", value=_hfu(result, words), style="strong"))
    rows += [
        Fact(
            label=words("mfu.beside", name=row.name.upper(), convention=row.convention),
            value=utilization_text(row, words),
        )
        for row in result.beside
        if row.name == "mfu" and row.fraction is not None
    ]
    return rows


def _table(results: Sequence[MfuResult], words: Words) -> Table:
    has_hfu = any(r.hfu != r.mfu for r in results)
    columns = [
        Column(name=words("col.convention"), is_number=False),
        Column(name=words("col.per_token"), rank=1),
        Column(name=words("col.rate_device")),
        Column(name=words("col.mfu")),
        *([Column(name=words("col.hfu"))] if has_hfu else []),
    ]
    peaks = list(dict.fromkeys(_peak(r, words) for r in results))
    one_peak = len(peaks) == 1
    columns += [] if one_peak else [Column(name=words("col.of"), is_number=False)]
    rows: list[list[Cell | str]] = [
        [
            r.convention,
            units.format_flops(r.flops_per_token),
            _rate(r.model_tflops_per_device),
            Cell(text=_percent(r.mfu, words), style="strong"),
            *([_percent(r.hfu, words)] if has_hfu else []),
            *([] if one_peak else [_peak(r, words)]),
        ]
        for r in results
    ]
    return Table(columns=columns, rows=rows, note=words("mfu.of", peak=peaks[0]) if one_peak else "")


def _percent(fraction: float | None, words: Words) -> str:
    return words("na") if fraction is None else units.format_percent(fraction)


def _rate(tflops_per_s: float) -> str:
    return units.format_rate(tflops_per_s * 1e12)


def _peak(result: MfuResult, words: Words) -> str:
    if result.peak_flops_per_s is None:
        return f"{words('na')}: {result.reason or words('use.no_reason')}"
    return f"{units.format_rate(result.peak_flops_per_s)} ({result.peak_source})"


def _share(result: MfuResult, fraction: float | None, words: Words) -> str:
    row = next((row for row in result.utilization if row.name == "mfu"), None)
    if row is not None and fraction == row.fraction:
        return utilization_text(row, words)
    if fraction is None or result.peak_flops_per_s is None:
        return f"{words('na')}: {result.reason or words('use.no_reason')}"
    return words(
        "use.share",
        percent=units.format_percent(fraction),
        peak=units.format_rate(result.peak_flops_per_s),
        source=result.peak_source,
    )


def _hfu(result: MfuResult, words: Words) -> str:
    if result.hfu is None and result.hfu_reason:
        return f"{words('na')}: {result.hfu_reason}"
    return _share(result, result.hfu, words)
