"""What is shown of a report: for all models a verdict in words, work, fit and speed, and what was not run."""

from __future__ import annotations

from collections.abc import Sequence

from flopwatch import units
from flopwatch.record import BenchResult, CountResult, FitResult, ReportResult
from flopwatch.report.content import bench, fit
from flopwatch.report.content.figures import above_peak_notes, rate_text, utilization_text
from flopwatch.report.document import Block, Cell, Column, Fact, Facts, Heading, Note, Table
from flopwatch.report.messages import Words


def blocks(results: Sequence[ReportResult], words: Words) -> list[Block]:
    """Tables first, the verdict of each model below them, what was not run last."""
    fits = [item for result in results for item in result.fits]
    benches = [item for result in results for item in result.benches]
    shown: list[Block] = [Heading(text=words("report.work")), work_table(results, words)]
    shown.append(Heading(text=words("report.fits")))
    shown.append(fit.comparison(fits, words) if fits else Note(text=words("report.no_fits")))
    shown.append(Heading(text=words("report.speed")))
    shown.append(bench.comparison(benches, words) if benches else Note(text=words("report.no_benches")))
    shown += denominator_notes(benches, words)
    shown.append(Heading(text=words("report.verdict")))
    shown.append(Facts(rows=[Fact(label=result.model, value=verdict(result, words)) for result in results]))
    return [*shown, *skipped_blocks(results, words)]


def work_table(results: Sequence[ReportResult], words: Words) -> Table:
    """One row a model: parameters, FLOPs of a forward and of a training step."""
    rows: list[list[Cell | str]] = []
    for result in results:
        by_phase = {item.phase: item for item in result.counts}
        any_count = next(iter(result.counts), None)
        rows.append(
            [
                Cell(text=result.model, style="strong"),
                words("na") if any_count is None else f"{any_count.params.total:,}",
                words("na") if any_count is None else f"{any_count.batch} x {any_count.seq_len}",
                _total(by_phase.get("forward"), words),
                _total(by_phase.get("train"), words),
                _per_token(by_phase.get("train") or any_count, words),
            ]
        )
    return Table(
        columns=[
            Column(name=words("col.model"), is_number=False),
            Column(name=words("col.params")),
            Column(name=words("col.size"), rank=2),
            Column(name=words("col.forward_flops")),
            Column(name=words("col.train_flops")),
            Column(name=words("col.per_token"), rank=1),
        ],
        rows=rows,
    )


def denominator_notes(benches: Sequence[BenchResult], words: Words) -> list[Block]:
    """What the percentages are of: every denominator once, unknown ones with their reason, and what exceeds 100 %."""
    lines: dict[str, str] = {}
    for row in (row for item in benches for row in item.utilization if row.name == "mfu"):
        if row.fraction is None or row.peak_flops_per_s is None:
            lines.setdefault(utilization_text(row, words), "")
        else:
            of = utilization_text(row, words).partition(" of ")[2]
            lines.setdefault(words("use.denominator", what=of, convention=row.convention), "")
    notes: list[Block] = [Note(text=f"MFU: {line}", style="dim") for line in lines]
    return [*notes, *above_peak_notes([row for item in benches for row in item.utilization], words)]


def verdict(result: ReportResult, words: Words) -> str:
    """One model in words: its size, what fits, how fast it runs."""
    sentences = [words("verdict.work", params=units.format_count(item.params.total)) for item in result.counts[:1]]
    sentences += [_step_sentence(item, words) for item in result.counts]
    sentences += [_fit_sentence(item, words) for item in result.fits]
    sentences += [_speed_sentence(item, words) for item in result.benches]
    sentences += [f"{item.get('what', '')}: {item.get('why', '')}" for item in result.skipped]
    return "; ".join(sentences) + "."


def skipped_blocks(results: Sequence[ReportResult], words: Words) -> list[Block]:
    """What was not run, and why."""
    rows = [[result.model, item.get("what", ""), item.get("why", "")] for result in results for item in result.skipped]
    if not rows:
        return []
    columns = [Column(name=words(f"col.{name}"), is_number=False) for name in ("model", "what", "why")]
    return [Heading(text=words("report.skipped")), Table(columns=columns, rows=rows)]


def _step_sentence(item: CountResult, words: Words) -> str:
    flops = units.format_flops(item.flops.total)
    return words("verdict.step", phase=item.phase, batch=item.batch, seq_len=item.seq_len, flops=flops)


def _fit_sentence(item: FitResult, words: Words) -> str:
    limit = units.format_bytes(item.limit_bytes)
    if item.batch is None:
        if item.predicted_peak_bytes is None:
            return words("verdict.fit_none", phase=item.phase, limit=limit)
        needs = units.format_bytes(item.predicted_peak_bytes)
        return words("verdict.fit_needs", phase=item.phase, limit=limit, needs=needs)
    if fit.is_capped(item):
        return words("verdict.fit_capped", phase=item.phase, batch=item.batch, limit=limit)
    if not item.verified:
        return words("verdict.fit_unverified", phase=item.phase, batch=item.batch, limit=limit)
    return words("verdict.fit", phase=item.phase, batch=item.batch, limit=limit, next=fit.proof_text(item, words))


def _speed_sentence(item: BenchResult, words: Words) -> str:
    rows = [row for row in item.utilization if row.name == "mfu"]
    known = [row for row in rows if row.fraction is not None] or rows
    mfu = "; ".join(utilization_text(row, words) for row in known) or words("na")
    return words("verdict.speed", phase=item.phase, tokens=rate_text(item.tokens_per_s), mfu=mfu)


def _total(item: CountResult | None, words: Words) -> str:
    return words("na") if item is None else f"{item.flops.total:,}"


def _per_token(item: CountResult | None, words: Words) -> str:
    return words("na") if item is None else units.format_flops(item.flops.per_token)
