"""What is shown of MFU from a known speed: one line a convention, its denominator beside it."""

from __future__ import annotations

from collections.abc import Sequence

from flopwatch import units
from flopwatch.record import MfuResult, UtilizationRow
from flopwatch.report.content.figures import (
    above_peak_notes,
    convention_text,
    peak_text,
    rate_text,
    source_of,
    utilization_text,
)
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
        notes = dict.fromkeys(words.said(note) for result in group for note in result.notes)
        shown += [Note(text=words("note", note=note), style="dim") for note in notes]
    return shown


def _by_run(results: Sequence[MfuResult]) -> list[list[MfuResult]]:
    groups: dict[tuple[object, ...], list[MfuResult]] = {}
    for result in results:
        key = (result.model, result.tokens_per_s, result.n_devices, result.device, result.seq_len, result.dtype)
        groups.setdefault(key, []).append(result)
    return list(groups.values())


def _facts(result: MfuResult, words: Words) -> list[Fact]:
    """The shares first, each with its denominator, then what they are made of."""
    rows = [Fact(label="MFU", value=_share(result, "mfu", words), style="strong")]
    if result.hfu is not None or result.hfu_reason:
        rows.append(Fact(label="HFU", value=_share(result, "hfu", words), style="strong"))
    rows += [
        Fact(
            label=words("mfu.beside", name=row.name.upper(), convention=row.convention),
            value=_of_peak(row, words),
        )
        for row in result.beside
        if row.name == "mfu" and row.fraction is not None
    ]
    rows += [
        Fact(label=words("count.convention"), value=convention_text(result.convention, result.details, words)),
        Fact(label=words("mfu.run"), value=_run(result, words)),
        Fact(label=words("mfu.per_token"), value=units.format_flops(result.flops_per_token)),
        Fact(label=words("mfu.rate"), value=words("mfu.rate_value", rate=_rate(result.model_tflops_per_device))),
    ]
    hardware = result.hardware_tflops_per_device
    if hardware is not None and hardware != result.model_tflops_per_device:
        says = "mfu.rate_stated" if result.stated_quantity == "hardware" else "mfu.rate_value"
        rows.append(Fact(label=words("mfu.hardware_rate"), value=words(says, rate=_rate(hardware))))
    return rows


def _run(result: MfuResult, words: Words) -> str:
    """What ran, with everything that was taken for granted: `train, 1,024 tokens a sequence, bf16, recompute none`."""
    seq_len = None if result.seq_len is None else words("mfu.seq_len", n=f"{result.seq_len:,}")
    recompute = None if result.recompute is None else words("mfu.recompute", what=words.said(result.recompute))
    known = (result.phase and words.said(result.phase), seq_len, result.dtype, recompute)
    return words("list.parts").join(part for part in known if part) or words("na")


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
    said = [words("mfu.of", peak=peaks[0])] if one_peak else []
    said += [words("mfu.spread", **spread)] if (spread := _spread(results)) else []
    return Table(columns=columns, rows=rows, note=words("list.clauses").join(said))


def _spread(results: Sequence[MfuResult]) -> dict[str, str] | None:
    """The lowest and the highest count of the same run, and their ratio."""
    low = min(results, key=lambda result: result.flops_per_token)
    high = max(results, key=lambda result: result.flops_per_token)
    if not low.flops_per_token:
        return None
    return {
        "low": low.convention,
        "high": high.convention,
        "ratio": f"{high.flops_per_token / low.flops_per_token:.3g}",
    }


def _percent(fraction: float | None, words: Words) -> str:
    return words("na") if fraction is None else units.format_percent(fraction)


def _rate(tflops_per_s: float) -> str:
    return units.format_rate(tflops_per_s * 1e12)


def _peak(result: MfuResult, words: Words) -> str:
    if result.peak_flops_per_s is None:
        return _unknown(result.reason, words)
    return peak_text(result.peak_flops_per_s, words.said(result.peak_source), words)


def _unknown(reason: str | None, words: Words) -> str:
    return words("na_because", reason=words.said(reason) if reason else words("use.no_reason"))


def _share(result: MfuResult, name: str, words: Words) -> str:
    """The share as a fraction and a percentage with its denominator, or n/a with the reason."""
    fraction, reason = (result.mfu, None) if name == "mfu" else (result.hfu, result.hfu_reason)
    if fraction is None:
        return _unknown(reason or result.reason, words)
    if name == "hfu" and fraction == result.mfu:
        return words("mfu.same", **_numbers(fraction, result.peak_kind))
    row = next((row for row in result.utilization if row.name == name), None)
    if row is not None:
        return _of_peak(row, words)
    share = words("mfu.share", **_numbers(fraction, result.peak_kind))
    return words("mfu.share_of", share=share, peak=_peak(result, words))


def _of_peak(row: UtilizationRow, words: Words) -> str:
    if row.fraction is None or row.peak_flops_per_s is None:
        return utilization_text(row, words)
    peak = peak_text(row.peak_flops_per_s, source_of(row, words), words)
    return words("mfu.share_of", share=words("mfu.share", **_numbers(row.fraction, row.peak_kind)), peak=peak)


def _numbers(fraction: float, peak_kind: str | None) -> dict[str, str]:
    """Three decimals; four where the notebook's figures are to be found again."""
    decimals = 4 if peak_kind == "notebook" else 3
    return {"fraction": f"{fraction:.{decimals}f}", "percent": units.format_percent(fraction)}
