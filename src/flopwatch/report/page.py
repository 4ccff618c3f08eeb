"""A page as data: its sections in order, with their blocks and charts, before any of it is markup."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from flopwatch import units
from flopwatch.record import Record, ReportResult
from flopwatch.report.charts import Chart, charts_of
from flopwatch.report.content import bench, blocks_of, fit
from flopwatch.report.content.count import shares_table, uncounted_facts
from flopwatch.report.content.fields import flat, text_of
from flopwatch.report.content.figures import convention_text
from flopwatch.report.content.report import denominator_notes, limit_notes, phase_lines, skipped_table, work_table
from flopwatch.report.content.report_parts import convention_tables, roofline_table
from flopwatch.report.document import Block, Fact, Facts, Note
from flopwatch.report.messages import Words
from flopwatch.report.whatif import Panel, panel_of


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One model in words."""

    model: str
    params: str
    lines: Sequence[tuple[str, str]]


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """One section; `folded` blocks are shown on request, `panel` is the calculator."""

    id: str
    title: str
    blocks: Sequence[Block] = ()
    charts: Sequence[Chart] = ()
    folded: Sequence[tuple[str, Sequence[Block]]] = ()
    panel: Panel | None = None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One record as a page."""

    title: str
    subtitle: str
    command: str
    verdicts: Sequence[Verdict]
    sections: Sequence[Section]
    warnings: Sequence[str]


def page_of(record: Record, words: Words) -> Page:
    """The page of a record: a report in sections, any other kind as one."""
    is_report = record.kind == "report"
    results: list[ReportResult] = record.typed_results() if is_report else []
    sections = _report_sections(record, results, words) if is_report else [_plain_section(record, words)]
    return Page(
        title=words("page.title_report" if is_report else "page.title", kind=record.kind),
        subtitle=words("page.subtitle", created=record.created, machine=_machine(record)),
        command=str(record.request.get("command", "")),
        verdicts=[_verdict(result, words) for result in results],
        sections=[*(section for section in sections if section.blocks or section.panel), _environment(record, words)],
        warnings=[words.said(warning) for warning in record.warnings],
    )


def _plain_section(record: Record, words: Words) -> Section:
    blocks = blocks_of(record, words)
    title = words(f"page.kind_{record.kind}")
    return Section(id="results", title=title, blocks=blocks, charts=charts_of(record, words))


def _report_sections(record: Record, results: Sequence[ReportResult], words: Words) -> list[Section]:
    charts = {chart.id: chart for chart in charts_of(record, words)}
    fits = [item for result in results for item in result.fits]
    benches = [item for result in results for item in result.benches]
    return [
        Section(
            id="work",
            title=words("report.work"),
            blocks=[work_table(results, words)],
            charts=[charts[name] for name in ("work", "modules") if name in charts],
            folded=_parts(results, words),
        ),
        Section(
            id="fit",
            title=words("report.fits"),
            blocks=[*limit_notes(fits, words), fit.comparison(fits, words)]
            if fits
            else [Note(text=words("report.no_fits"))],
            charts=[charts[name] for name in ("probes", "memory") if name in charts],
            folded=_probes(results, words),
        ),
        Section(
            id="speed",
            title=words("report.speed"),
            blocks=[bench.comparison(benches, words), *denominator_notes(benches, words)]
            if benches
            else [Note(text=words("report.no_benches"))],
            charts=[charts[name] for name in ("speed", "utilization", "batch_curve") if name in charts],
            folded=[(words("page.each_bench"), bench.details_of(benches, words))] if benches else [],
        ),
        Section(
            id="roofline",
            title=words("report.roofline"),
            blocks=roofline_table(results, words),
            charts=[charts[name] for name in ("roofline",) if name in charts],
        ),
        _what_if(record, words),
        Section(
            id="conventions",
            title=words("page.conventions"),
            blocks=_conventions(results, words),
            charts=[charts[name] for name in ("conventions",) if name in charts],
            folded=convention_tables(results, words),
        ),
        Section(id="uncounted", title=words("count.uncounted"), blocks=_uncounted(results, words)),
        Section(id="skipped", title=words("report.skipped"), blocks=skipped_table(results, words)),
    ]


def _what_if(record: Record, words: Words) -> Section:
    """The calculator, or why there is none."""
    panel = panel_of(record, words)
    if isinstance(panel, str):
        return Section(id="whatif", title=words("whatif.title"), blocks=[Note(text=panel)])
    return Section(id="whatif", title=words("whatif.title"), panel=panel)


def _parts(results: Sequence[ReportResult], words: Words) -> list[tuple[str, Sequence[Block]]]:
    """FLOPs by part of every count, in full."""
    folded: list[tuple[str, Sequence[Block]]] = []
    for result in results:
        tables = [
            shares_table(words(f"phase.{count.phase}"), words("col.part"), count.flops.parts, words)
            for count in result.counts
            if any(count.flops.parts.values())
        ]
        if tables:
            folded.append((words("page.parts_of", model=result.model), tables))
    return folded


def _probes(results: Sequence[ReportResult], words: Words) -> list[tuple[str, Sequence[Block]]]:
    """Every try of each search."""
    return [
        (
            words("page.probes_of", model=item.model, phase=words(f"phase.{item.phase}").lower()),
            [fit.facts_of(item, words), *([fit.probes_table(item, words)] if item.probes else [])],
        )
        for result in results
        for item in result.fits
    ]


def _verdict(result: ReportResult, words: Words) -> Verdict:
    params = next((units.format_count(count.params.total) for count in result.counts), words("na"))
    return Verdict(model=result.model, params=words("verdict.work", params=params), lines=phase_lines(result, words))


def _conventions(results: Sequence[ReportResult], words: Words) -> list[Block]:
    """How FLOPs were counted, and the words that the page uses."""
    used = {count.convention: count.details for result in results for count in result.counts}
    rows = [
        Fact(label=words("count.convention"), value=convention_text(name, details, words))
        for name, details in used.items()
    ]
    glossary = [Fact(label=term, value=words(f"glossary.{term}")) for term in ("FLOPs", "FLOP/s", "MFU", "HFU", "GiB")]
    return [Facts(rows=[*rows, *glossary])]


def _uncounted(results: Sequence[ReportResult], words: Words) -> list[Block]:
    rows = [
        Fact(label=result.model, value=fact.value, style=fact.style)
        for result in results
        for count in result.counts
        for fact in uncounted_facts(count, words)
        if count.uncounted
    ]
    return [Facts(rows=rows)] if rows else [Note(text=words("page.all_counted"))]


def _environment(record: Record, words: Words) -> Section:
    fields = {name: value for name, value in flat(record.environment).items() if not isinstance(value, list)}
    rows = [Fact(label=name, value=text_of(value, words)) for name, value in fields.items()]
    rows.append(Fact(label=words("page.method"), value=f"{record.schema}, {record.method}"))
    return Section(id="environment", title=words("page.environment"), blocks=[Facts(rows=rows)])


def _machine(record: Record) -> str:
    """The machine in a word or two: the device's name, or what the environment has of it."""
    device = record.environment.get("device")
    if isinstance(device, dict):
        return str(device.get("name", ""))
    return str(device or record.environment.get("cpu") or record.environment.get("machine") or "")
