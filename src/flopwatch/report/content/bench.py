"""What is shown of a benchmark: step time with its spread, tokens/s, FLOP/s, MFU and HFU with every denominator."""

from __future__ import annotations

from collections.abc import Sequence

from flopwatch import units
from flopwatch.record import BenchResult
from flopwatch.report.content.bench_parts import batch_blocks, choice_table, decode_facts, gap_blocks
from flopwatch.report.content.figures import (
    above_peak_notes,
    error_text,
    notes_of,
    rate_text,
    short_use,
    utilization_facts,
)
from flopwatch.report.document import Block, Cell, Column, Fact, Facts, Heading, Table
from flopwatch.report.messages import Words


def blocks(results: Sequence[BenchResult], words: Words) -> list[Block]:
    """One section a model; a comparison below when there are several."""
    shown = details_of(results, words)
    return [*shown, comparison(results, words)] if len(results) > 1 else shown


def details_of(results: Sequence[BenchResult], words: Words) -> list[Block]:
    """Every figure of each benchmark, with its denominators."""
    shown: list[Block] = []
    for result in results:
        title = words(
            "bench.title_samples" if _is_of_samples(result) else "bench.title",
            model=result.model,
            phase=words.said(result.phase),
            batch=result.batch,
            seq_len=result.seq_len,
            dtype=result.dtype,
        )
        shown += [Heading(text=title), Facts(rows=_facts(result, words))]
        if result.batch_search is not None:
            shown += batch_blocks(result.batch_search, result.batch, words)
        if result.choices:
            shown.append(choice_table(result.choices, words))
        if result.gap is not None:
            shown += gap_blocks(result.gap, words)
        shown += [*above_peak_notes(result.utilization, words), *notes_of(result.details, words)]
    return shown


def comparison(results: Sequence[BenchResult], words: Words) -> Table:
    """One row a model and phase; a column for every kind of denominator that any of them knows."""
    known = {row.peak_kind for r in results for row in r.utilization if row.fraction is not None}
    kinds = [kind for kind in ("datasheet", "user", "measured", "notebook") if kind in known]
    columns = [
        Column(name=words("col.model"), is_number=False),
        Column(name=words("col.phase"), is_number=False),
        Column(name=words("col.size")),
        Column(name=words("col.step")),
        Column(name=words("col.tokens")),
        Column(name=words("col.rate"), rank=1),
        *(Column(name=words("col.mfu_of", kind=words(f"kind.{kind}"))) for kind in kinds),
        Column(name=words("col.memory"), rank=2),
    ]
    rows: list[list[Cell | str]] = [
        [
            Cell(text=r.model, style="strong"),
            words.said(r.phase),
            f"{r.batch} x {r.seq_len}",
            units.format_seconds(r.step_s.median),
            rate_text(r.tokens_per_s),
            units.format_rate(r.model_flops_per_s),
            *(short_use(r.utilization, "mfu", kind, words) for kind in kinds),
            words("na") if r.peak_memory_bytes is None else units.format_bytes(r.peak_memory_bytes),
        ]
        for r in results
    ]
    return Table(columns=columns, rows=rows)


def _facts(result: BenchResult, words: Words) -> list[Fact]:
    step = result.step_s
    timing = words(
        "bench.step_value",
        median=units.format_seconds(step.median),
        p10=units.format_seconds(step.p10),
        p90=units.format_seconds(step.p90),
        n=len(step.samples),
        n_warmup=result.n_warmup,
    )
    rows = [
        Fact(label=words("bench.device"), value=result.device),
        Fact(label=words("bench.step"), value=timing),
        Fact(
            label=words("bench.tokens"),
            value=words(
                "samples_per_s" if _is_of_samples(result) else "tokens_per_s", rate=rate_text(result.tokens_per_s)
            ),
            style="strong",
        ),
        Fact(label=words("bench.model_rate"), value=units.format_rate(result.model_flops_per_s)),
    ]
    if result.hardware_flops_per_s != result.model_flops_per_s:
        rows.append(Fact(label=words("bench.hardware_rate"), value=units.format_rate(result.hardware_flops_per_s)))
    rows += utilization_facts(result.utilization, words)
    if result.decode is not None:
        rows += decode_facts(result.decode, words, batch=result.batch)
    optimizer = result.details.get("optimizer", "adamw")
    if optimizer != "adamw":
        rows.append(Fact(label=words("bench.optimizer"), value=optimizer))
    return [*rows, Fact(label=words("bench.memory"), value=_memory_text(result, words))]


def _is_of_samples(result: BenchResult) -> bool:
    """Whether a sequence is one sample that is not made of tokens."""
    return bool(result.details.get("unit") == "samples")


def _memory_text(result: BenchResult, words: Words) -> str:
    """The measured peak, beside it the predicted one and how far off that is."""
    measured, predicted = result.peak_memory_bytes, result.predicted_peak_bytes
    if measured is None:
        return words("bench.no_memory")
    if predicted is None or not measured:
        return units.format_bytes(measured)
    return words(
        "bench.memory_beside",
        measured=units.format_bytes(measured),
        predicted=units.format_bytes(predicted),
        error=error_text(predicted, measured),
    )
