"""What is shown of a benchmark besides the step: decoding, the curve over batches, choices set side by side."""

from __future__ import annotations

from collections.abc import Sequence

from flopwatch import units
from flopwatch.record import BandwidthRow, BatchPoint, BatchSearch, ChoiceRow, DecodeFigures, GapSplit
from flopwatch.report.content.figures import rate_text
from flopwatch.report.document import Block, Cell, Column, Fact, Note, Table
from flopwatch.report.messages import Words


def decode_facts(decode: DecodeFigures, words: Words, *, batch: int) -> list[Fact]:
    """Time, work and bytes of a new token, and the share of each known bandwidth that reading them is."""
    time = words(
        "bench.per_token_value", step=units.format_seconds(decode.time_per_token_s), batch=batch, n_keys=decode.n_keys
    )
    facts = [
        Fact(label=words("bench.per_token"), value=time, style="strong"),
        Fact(label=words("bench.token_work"), value=_work(decode, words)),
    ]
    if decode.utilization:
        shares = words("list.clauses").join(_share(row, words) for row in decode.utilization)
        facts.append(Fact(label=words("bench.mbu"), value=shares, style="strong"))
    return facts


def _work(decode: DecodeFigures, words: Words) -> str:
    flops = units.format_flops(decode.flops_per_token)
    if decode.bytes_per_token is None or decode.weights_bytes is None or decode.kv_bytes is None:
        return words("bench.token_work_unknown", flops=flops, reason=words.said(decode.reason))
    return words(
        "bench.token_work_value",
        flops=flops,
        read=units.format_bytes(decode.bytes_per_token),
        weights=units.format_bytes(decode.weights_bytes),
        cache=units.format_bytes(decode.kv_bytes),
    )


def _share(row: BandwidthRow, words: Words) -> str:
    if row.fraction is None or row.bandwidth_bytes_per_s is None:
        return words("bench.mbu_unknown", kind=words(f"kind.{row.bandwidth_kind}"), reason=words.said(row.reason))
    return words(
        "bench.mbu_value",
        percent=units.format_percent(row.fraction),
        bandwidth=units.format_bandwidth(row.bandwidth_bytes_per_s),
        source=words.said(row.bandwidth_source),
    )


def batch_blocks(search: BatchSearch, best: int, words: Words) -> list[Block]:
    """The curve over the batches that were timed, why it ends, and the plan for a global batch."""
    top = max((point.tokens_per_s or 0.0 for point in search.curve), default=0.0)
    kind = next((point.mfu_peak_kind for point in search.curve if point.mfu_peak_kind), None)
    mfu = words("col.mfu") if kind is None else words("col.mfu_of", kind=words(f"kind.{kind}"))
    shown: list[Block] = [
        Table(
            title=words("bench.curve"),
            columns=[
                Column(name=words("col.batch")),
                Column(name=words("col.tokens")),
                Column(name=words("col.interval"), rank=1),
                Column(name=words("col.step"), rank=1),
                Column(name=mfu),
                Column(name=words("col.memory")),
            ],
            rows=[_point(point, best, top, words) for point in search.curve],
            note=words("bench.curve_end", end=words.said(search.end), n_runs=search.n_runs),
        )
    ]
    details = [
        words("because", what=point.batch, why=point.detail) for point in search.curve if point.outcome == "failed"
    ]
    shown += [Note(text=words("note", note=detail), style="dim") for detail in details]
    plan = search.plan
    if plan is not None:
        text = words(
            "bench.plan_between" if plan.is_between else "bench.plan",
            n=plan.global_batch,
            micro=plan.micro_batch,
            steps=plan.n_accumulate,
            rate=rate_text(plan.tokens_per_s),
        )
        shown.append(Note(text=text, style="strong"))
    return shown


def _point(point: BatchPoint, best: int, top: float, words: Words) -> list[Cell | str]:
    batch = Cell(text=f"{point.batch:,}", style="strong" if point.batch == best else "")
    if point.tokens_per_s is None or point.step_s is None:
        return [batch, words(f"bench.{point.outcome}"), "", "", "", ""]
    low, high = point.tokens_per_s_interval or (point.tokens_per_s, point.tokens_per_s)
    return [
        batch,
        Cell(text=rate_text(point.tokens_per_s), bar=point.tokens_per_s / top if top else 0.0),
        words("interval", low=rate_text(low), high=rate_text(high)),
        units.format_seconds(point.step_s),
        words("na") if point.mfu is None else units.format_percent(point.mfu),
        words("na") if point.peak_memory_bytes is None else units.format_bytes(point.peak_memory_bytes),
    ]


def choice_table(rows: Sequence[ChoiceRow], words: Words) -> Table:
    """What each choice buys against the base, with the interval; a choice that did not run says why below."""
    reasons = [
        words("because", what=_name_of(row, words), why=words.said(row.reason))
        for row in rows
        if row.reason is not None
    ]
    in_turn = [_name_of(row, words) for row in rows if row.n_rounds is not None]
    if in_turn:
        reasons.insert(0, words("bench.in_turn", names=words("list.items").join(in_turn)))
    return Table(
        title=words("bench.choices"),
        columns=[
            Column(name=words("col.choice"), is_number=False),
            Column(name=words("col.tokens")),
            Column(name=words("col.change")),
            Column(name=words("col.interval"), rank=1),
            Column(name=words("col.memory"), rank=1),
            Column(name=words("col.pays"), is_number=False),
        ],
        rows=[_choice(row, words) for row in rows],
        note=words("list.clauses").join([words("bench.choices_note"), *reasons]),
    )


def _name_of(row: ChoiceRow, words: Words) -> str:
    return f"{words.said(row.choice)} {row.value}"


def _choice(row: ChoiceRow, words: Words) -> list[Cell | str]:
    name = _name_of(row, words)
    if row.tokens_per_s is None or row.change_fraction is None or row.interval_fraction is None:
        return [name, words("na"), "", "", "", words("na")]
    low, high = row.interval_fraction
    verdict = Cell(text=words("compare.same"), style="dim")
    if row.disturbed is not None:
        verdict = Cell(text=words("bench.disturbed"), style="dim")
    if row.choice == "base":
        verdict = Cell(text=words("bench.same_step"), style="dim")
    if row.pays is not None:
        verdict = Cell(text=words("bench.pays" if row.pays else "bench.costs"), style="good" if row.pays else "warn")
    return [
        name,
        rate_text(row.tokens_per_s),
        Cell(text=f"{100 * row.change_fraction:+.1f} %", style="" if row.pays is None else "strong"),
        words("interval", low=f"{100 * low:+.1f}", high=f"{100 * high:+.1f} %"),
        words("na") if row.peak_memory_bytes is None else units.format_bytes(row.peak_memory_bytes),
        verdict,
    ]


def gap_blocks(gap: GapSplit, words: Words) -> list[Block]:
    """The step in parts, what each takes at best, and what is lost in it."""
    lost_s = gap.step_s - gap.roofline_s
    rows: list[list[Cell | str]] = [
        [
            words(f"gap.{part.name}"),
            _signed_seconds(part.measured_s),
            units.format_seconds(part.roofline_s) if part.roofline_s else "-",
            Cell(text=_signed_seconds(part.gap_s), style="strong"),
            Cell(text=units.format_percent(part.gap_s / lost_s), bar=min(1.0, max(0.0, part.gap_s / lost_s))),
        ]
        for part in gap.parts
    ]
    step, least = units.format_seconds(gap.step_s), units.format_seconds(gap.roofline_s)
    rows.append([words("gap.total"), step, least, _signed_seconds(lost_s), units.format_percent(1.0)])
    said = [words("gap.note", source=words.said(gap.roofline_source), profiled=units.format_seconds(gap.profiled_s))]
    if gap.matmuls_alone_s is not None:
        said.append(words("gap.alone", alone=units.format_seconds(gap.matmuls_alone_s)))
    table = Table(
        title=words("gap.title", step=step, least=least),
        columns=[
            Column(name=words("col.part"), is_number=False),
            Column(name=words("col.took")),
            Column(name=words("col.least")),
            Column(name=words("col.lost")),
            Column(name=words("col.lost_share")),
        ],
        rows=rows,
        note=words("list.clauses").join(said),
    )
    return [table, *(Note(text=words("note", note=words.said(note)), style="dim") for note in gap.notes)]


def _signed_seconds(time_s: float) -> str:
    return f"-{units.format_seconds(-time_s)}" if time_s < 0 else units.format_seconds(time_s)
