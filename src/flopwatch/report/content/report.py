"""What is shown of a report: for all models a verdict in words, work, fit and speed, and what was not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flopwatch import units
from flopwatch.record import BenchResult, CountResult, FitResult, ReportResult
from flopwatch.report.content import bench, fit
from flopwatch.report.content.figures import above_peak_notes, peak_text, rate_text, source_of, utilization_text
from flopwatch.report.document import Block, Cell, Column, Fact, Facts, Heading, Note, Table
from flopwatch.report.messages import Words


def blocks(results: Sequence[ReportResult], words: Words) -> list[Block]:
    """Tables first, the verdict of each model below them, what was not run last."""
    fits = [item for result in results for item in result.fits]
    benches = [item for result in results for item in result.benches]
    shown: list[Block] = [Heading(text=words("report.work")), work_table(results, words)]
    shown.append(Heading(text=words("report.fits")))
    shown += limit_notes(fits, words)
    shown.append(fit.comparison(fits, words) if fits else Note(text=words("report.no_fits")))
    shown.append(Heading(text=words("report.speed")))
    shown.append(bench.comparison(benches, words) if benches else Note(text=words("report.no_benches")))
    shown += denominator_notes(benches, words)
    shown.append(Heading(text=words("report.verdict")))
    shown.append(Facts(rows=[Fact(label=result.model, value=verdict(result, words)) for result in results]))
    skipped = skipped_table(results, words)
    return [*shown, *([Heading(text=words("report.skipped")), *skipped] if skipped else [])]


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


def limit_notes(fits: Sequence[FitResult], words: Words) -> list[Block]:
    """What the searches have in common: sequence, dtype, and the limit with its source."""
    lines = dict.fromkeys(
        words(
            "report.limit",
            seq_len=f"{item.seq_len:,}",
            dtype=item.dtype,
            limit=units.format_bytes(item.limit_bytes),
            source=words.said(item.limit_source),
        )
        for item in fits
    )
    return [Note(text=line, style="dim") for line in lines]


def denominator_notes(benches: Sequence[BenchResult], words: Words) -> list[Block]:
    """What the percentages are of: every denominator once, unknown ones with their reason, and what exceeds 100 %."""
    least = min((len(item.step_s.samples) for item in benches), default=0)
    steps = dict.fromkeys(words("report.step", dtype=item.dtype, device=item.device, n=least) for item in benches)
    lines: dict[str, str] = {}
    for row in (row for item in benches for row in item.utilization if row.name == "mfu"):
        if row.fraction is None or row.peak_flops_per_s is None:
            lines.setdefault(utilization_text(row, words), "")
        else:
            of = peak_text(row.peak_flops_per_s, source_of(row, words), words)
            lines.setdefault(words("use.denominator", what=of, convention=row.convention), "")
    notes: list[Block] = [
        Note(text=line, style="dim") for line in (*steps, *(words("report.mfu", text=line) for line in lines))
    ]
    return [*notes, *above_peak_notes([row for item in benches for row in item.utilization], words)]


def verdict(result: ReportResult, words: Words) -> str:
    """One model in words: its size, and for each phase its work, what fits and how fast it runs."""
    end = words("list.end")
    size = [words("verdict.work", params=units.format_count(item.params.total)) + end for item in result.counts[:1]]
    lines = [words("because", what=phase, why=text) for phase, text in phase_lines(result, words)]
    return words("list.sentences").join([*size, *lines])


def phase_lines(result: ReportResult, words: Words) -> list[tuple[str, str]]:
    """For each phase its name, and in words its work, what fits and how fast it runs."""
    phases = [item.phase for item in result.counts]
    phases += [item.phase for item in result.fits] + [item.phase for item in result.benches]
    lines = []
    for phase in dict.fromkeys(phases):
        clauses = [_fit_clause(item, words) for item in result.fits if item.phase == phase]
        clauses += [_speed_clause(item, words) for item in result.benches if item.phase == phase]
        work = [item for item in result.counts if item.phase == phase]
        lines.append((words(f"phase.{phase}"), _phase_sentence(work, clauses or [words("verdict.not_run")], words)))
    return lines


def skipped_table(results: Sequence[ReportResult], words: Words) -> list[Block]:
    """What was not run, and why; nothing when all was."""
    rows = [
        [result.model, _what_skipped(item, words), words.said(item.get("why"))]
        for result in results
        for item in result.skipped
    ]
    if not rows:
        return []
    return [
        Table(columns=[Column(name=words(f"col.{n}"), is_number=False) for n in ("model", "what", "why")], rows=rows)
    ]


def _what_skipped(item: Mapping[str, str], words: Words) -> str:
    """`bench train`, word by word in the reader's language."""
    return " ".join(words.said(word) for word in item.get("what", "").split())


def _phase_sentence(work: Sequence[CountResult], clauses: Sequence[str], words: Words) -> str:
    of_work = [
        words("verdict.step", batch=item.batch, seq_len=item.seq_len, flops=units.format_flops(item.flops.total))
        for item in work
    ]
    return words("list.clauses").join([*of_work, *clauses]) + words("list.end")


def _fit_clause(item: FitResult, words: Words) -> str:
    limit = units.format_bytes(item.limit_bytes)
    if item.batch is None:
        if item.predicted_peak_bytes is None:
            return words("verdict.fit_none", limit=limit)
        return words("verdict.fit_needs", limit=limit, needs=units.format_bytes(item.predicted_peak_bytes))
    if fit.is_capped(item):
        return words("verdict.fit_capped", batch=item.batch, limit=limit)
    if not item.verified or item.next is None:
        return words("verdict.fit_unverified", batch=item.batch, limit=limit)
    outcome = words(f"outcome.{item.next.outcome}")
    return words("verdict.fit", batch=item.batch, limit=limit, next=item.next.batch, outcome=outcome)


def _speed_clause(item: BenchResult, words: Words) -> str:
    rows = [row for row in item.utilization if row.name == "mfu"]
    known = [row for row in rows if row.fraction is not None] or rows
    mfu = words("list.clauses").join(utilization_text(row, words) for row in known) or words("na")
    return words("verdict.speed", tokens=rate_text(item.tokens_per_s), batch=item.batch, mfu=mfu)


def _total(item: CountResult | None, words: Words) -> str:
    return words("na") if item is None else f"{item.flops.total:,}"


def _per_token(item: CountResult | None, words: Words) -> str:
    return words("na") if item is None else units.format_flops(item.flops.per_token)
