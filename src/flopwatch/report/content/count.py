"""What is shown of a count: parameters and FLOPs to the last digit, by part; several models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flopwatch import units
from flopwatch.record import CountResult, FlopParts
from flopwatch.report.content.figures import convention_text
from flopwatch.report.content.reconcile import reconcile_blocks
from flopwatch.report.document import Block, Cell, Column, Fact, Facts, Heading, Note, Style, Table
from flopwatch.report.messages import Words

_MOST_ROWS = 40


def blocks(results: Sequence[CountResult], words: Words) -> list[Block]:
    """One model in full; several as one row each, their convention below."""
    if len(results) == 1:
        return _one(results[0], words)
    if len({r.model for r in results}) == 1:
        return _under_each(results, words)
    return [*comparison(results, words), *_common_notes(results, words)]


def comparison(results: Sequence[CountResult], words: Words) -> list[Block]:
    """One row a model; the workload stands above when it is the same for all."""
    sizes = {(r.phase, r.batch, r.seq_len) for r in results}
    same = len(sizes) == 1
    has_backward = any(r.flops.backward for r in results)
    has_recompute = any(r.flops.recompute for r in results)
    has_active = any(r.params.active not in {None, r.params.total} for r in results)
    columns = [Column(name=words("col.model"), is_number=False)]
    columns += [] if same else [Column(name=words("col.phase"), is_number=False), Column(name=words("col.size"))]
    columns.append(Column(name=words("col.params")))
    columns += [Column(name=words("col.active"), rank=1)] if has_active else []
    columns += [Column(name=words("col.forward"), rank=2)] if has_backward else []
    columns += [Column(name=words("col.backward"), rank=3)] if has_backward else []
    columns += [Column(name=words("col.recompute"), rank=1)] if has_recompute else []
    columns += [Column(name=words("col.total_flops")), Column(name=""), Column(name=words("col.per_token"), rank=1)]
    rows = []
    for r in results:
        row: list[Cell | str] = [Cell(text=r.model, style="strong")]
        row += [] if same else [words.said(r.phase), f"{r.batch} x {r.seq_len}"]
        row.append(f"{r.params.total:,}")
        row += [units.format_count(r.params.active or r.params.total)] if has_active else []
        row += [units.format_flops(r.flops.forward)] if has_backward else []
        row += [units.format_flops(r.flops.backward)] if has_backward else []
        row += [units.format_flops(r.flops.recompute)] if has_recompute else []
        row += [
            f"{r.flops.total:,}",
            units.format_flops(r.flops.total),
            units.format_flops(r.flops.per_token),
        ]
        rows.append(row)
    title = ""
    if same:
        phase, batch, seq_len = next(iter(sizes))
        title = words("count.several", phase=words.said(phase), batch=batch, seq_len=seq_len)
    return [Table(title=title, columns=columns, rows=rows)]


def _under_each(results: Sequence[CountResult], words: Words) -> list[Block]:
    """One model, one row a convention, and how far they are apart."""
    first = results[0]
    least, most = (pick(results, key=lambda r: r.flops.total) for pick in (min, max))
    rows: list[list[Cell | str]] = [
        [
            Cell(text=r.convention, style="strong"),
            f"{r.flops.total:,}",
            units.format_flops(r.flops.total),
            units.format_flops(r.flops.per_token),
            f"{r.flops.total / first.flops.total:.3f}",
        ]
        for r in results
    ]
    return [
        Table(
            title=words(
                "count.conventions",
                model=first.model,
                phase=words.said(first.phase),
                batch=first.batch,
                seq_len=first.seq_len,
            ),
            columns=[
                Column(name=words("count.convention").lower(), is_number=False),
                Column(name=words("col.total_flops")),
                Column(name="", rank=2),
                Column(name=words("col.per_token"), rank=1),
                Column(name=f"/ {first.convention}"),
            ],
            rows=rows,
            note=words(
                "count.spread",
                least=least.convention,
                most=most.convention,
                times=f"{most.flops.total / least.flops.total:.2f}",
            ),
        )
    ]


def _one(result: CountResult, words: Words) -> list[Block]:
    flops, params = result.flops, result.params
    rows = [_count_fact(words("count.params"), params.total)]
    if params.active is not None and params.active != params.total:
        rows.append(_count_fact(words("count.active"), params.active))
    rows.append(_flops_fact(words("count.forward"), flops.forward))
    if flops.backward or flops.recompute:
        rows.append(_flops_fact(words("count.backward"), flops.backward))
        if flops.recompute:
            rows.append(_flops_fact(words("count.recompute"), flops.recompute))
        if flops.in_kernel:
            rows.append(_flops_fact(words("count.in_kernel"), flops.in_kernel))
        total = words("count.total_model" if flops.recompute or flops.in_kernel else "count.total")
        rows.append(_flops_fact(total, flops.total, style="strong"))
    rows.append(Fact(label=words("count.per_token"), value=units.format_flops(flops.per_token)))
    rows += _provenance(result, words)
    phase = words.said(result.phase)
    title = words("count.title", model=result.model, phase=phase, batch=result.batch, seq_len=result.seq_len)
    blocks: list[Block] = [Heading(text=title), Facts(rows=rows), *flops_by_part(flops, words)]
    if "reconcile" in result.details:
        return [*blocks, *reconcile_blocks(result.details["reconcile"], words)]
    if result.modules is not None:
        blocks.append(_by_module(result.modules, words))
    if result.operators is not None:
        blocks.append(_by_operator(result.operators, words))
    return blocks


def flops_by_part(flops: FlopParts, words: Words) -> list[Block]:
    """FLOPs by part with their share of the parts' sum, which is the total or (said so) the forward pass."""
    whole = sum(flops.parts.values())
    if not whole:
        return []
    title = "count.by_part" if whole == flops.total else "count.by_part_forward"
    return [shares_table(words(title), words("col.part"), flops.parts, words)]


def shares_table(title: str, name: str, amounts: Mapping[str, int], words: Words) -> Table:
    """Amounts of FLOPs by name, each with its share and a bar."""
    whole = sum(amounts.values())
    largest = max(amounts.values())
    return Table(
        title=title,
        columns=[
            Column(name=name, is_number=False),
            Column(name=words("col.flops")),
            Column(name="", rank=1),
            Column(name=words("col.share", total=units.format_flops(whole))),
        ],
        rows=[
            [
                label,
                f"{amount:,}",
                units.format_flops(amount),
                Cell(text=units.format_percent(amount / whole), bar=amount / largest),
            ]
            for label, amount in amounts.items()
        ],
    )


def _by_module(modules: Mapping[str, Mapping[str, int]], words: Words) -> Table:
    """The modules of a trace as they were given, outermost first; long lists keep their head."""
    names = list(modules)[:_MOST_ROWS]
    return Table(
        title=words("count.by_module"),
        columns=[
            Column(name=words("col.module"), is_number=False),
            Column(name=words("col.forward")),
            Column(name=words("col.backward")),
        ],
        rows=[
            [name, *(units.format_flops(modules[name].get(p, 0)) for p in ("forward", "backward"))] for name in names
        ],
        note="" if len(names) == len(modules) else words("count.more", n=len(modules) - len(names)),
    )


def _by_operator(operators: Sequence[Mapping[str, object]], words: Words) -> Table:
    """The operators of a trace, with the columns that it gave."""
    keys = list(dict.fromkeys(key for row in operators for key in row))
    shown = operators[:_MOST_ROWS]
    return Table(
        title=words("count.by_operator"),
        columns=[Column(name=words.said(key), is_number=index > 0) for index, key in enumerate(keys)],
        rows=[[_plain(row.get(key, "")) for key in keys] for row in shown],
        note="" if len(shown) == len(operators) else words("count.more", n=len(operators) - len(shown)),
    )


def _plain(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _common_notes(results: Sequence[CountResult], words: Words) -> list[Block]:
    rows: list[Fact] = []
    for result in results:
        rows += [fact for fact in _provenance(result, words) if fact not in rows]
    return [Facts(rows=rows)] if rows else [Note(text=words("none"))]


def _provenance(result: CountResult, words: Words) -> list[Fact]:
    """How it was counted and what was not."""
    return [
        Fact(label=words("count.convention"), value=convention_text(result.convention, result.details, words)),
        Fact(label=words("count.source"), value=words(f"source.{result.source}")),
        *uncounted_facts(result, words),
    ]


def uncounted_facts(result: CountResult, words: Words) -> list[Fact]:
    """Operators without a formula: never a silent zero."""
    items = [
        words(
            "count.uncounted_matmul" if item.looks_like_matmul else "count.uncounted_op", op=item.op, calls=item.calls
        )
        for item in result.uncounted
    ]
    style: Style = "warn" if any(item.looks_like_matmul for item in result.uncounted) else ""
    return [Fact(label=words("count.uncounted"), value=words("list.items").join(items) or words("none"), style=style)]


def _flops_fact(label: str, flops: int, style: Style = "") -> Fact:
    return Fact(label=label, value=units.format_flops(flops), exact=f"{flops:,}", style=style)


def _count_fact(label: str, n: int) -> Fact:
    return Fact(label=label, value=units.format_count(n), exact=f"{n:,}")
