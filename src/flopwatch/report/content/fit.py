"""What is shown of a fit: the batch, the limit, prediction beside measurement, the proof, every probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flopwatch import units
from flopwatch.record import FitResult, ProbeRow
from flopwatch.report.content.figures import error_text
from flopwatch.report.document import Block, Cell, Column, Fact, Facts, Heading, Table
from flopwatch.report.messages import Words


def blocks(results: Sequence[FitResult], words: Words) -> list[Block]:
    """One section a model, with its probes."""
    shown: list[Block] = []
    for result in results:
        title = words(
            "fit.title_samples" if result.details.get("unit") == "samples" else "fit.title",
            model=result.model,
            phase=words.said(result.phase),
            seq_len=result.seq_len,
            dtype=result.dtype,
        )
        shown += [Heading(text=title), facts_of(result, words)]
        if result.probes:
            shown.append(probes_table(result, words))
    return shown


def comparison(results: Sequence[FitResult], words: Words) -> Table:
    """One row a model and phase."""
    names = ("model", "phase", "batch", "limit", "predicted", "measured", "error", "proof")
    ranks = {"limit": 1, "error": 2, "predicted": 3}
    return Table(
        columns=[
            Column(
                name=words(f"col.{name}"), is_number=name not in {"model", "phase", "proof"}, rank=ranks.get(name, 0)
            )
            for name in names
        ],
        rows=[
            [
                Cell(text=result.model, style="strong"),
                words.said(result.phase),
                batch_text(result, words),
                units.format_bytes(result.limit_bytes),
                _bytes(result.predicted_peak_bytes, words),
                _bytes(result.measured_peak_bytes, words),
                _error(result, words),
                _short_proof(result, words),
            ]
            for result in results
        ],
    )


def is_capped(result: FitResult) -> bool:
    """Whether the search ended at the largest batch that it was allowed to try, so that more may fit."""
    return bool(result.details.get("capped"))


def batch_text(result: FitResult, words: Words) -> str:
    """The batch for a table: `5`, `>= 8` when the search was capped, `~ 31` when nothing was run, `none`."""
    if result.batch is None:
        return words("none")
    if not result.verified:
        return f"~ {result.batch}"
    return f">= {result.batch}" if is_capped(result) else str(result.batch)


def proof_text(result: FitResult, words: Words) -> str:
    """What makes the batch the largest: `5 ran; 6 ran out of memory`."""
    if not result.verified and result.batch is not None:
        return words("fit.unverified")
    if result.next is None:
        return words("na")
    key = {"ran": "fit.proof_ran", "proved": "fit.proof_proved", "not tested": "fit.proof_untested"}[result.next.how]
    if result.batch is None and key == "fit.proof_ran":
        key = "fit.proof_next"
    outcome = words(f"outcome.{result.next.outcome}")
    return words(key, batch=result.batch, next=result.next.batch, outcome=outcome)


def _short_proof(result: FitResult, words: Words) -> str:
    """The proof where the batch stands beside it: `6 ran out of memory`."""
    if not result.verified and result.batch is not None:
        return words("fit.unverified")
    if result.next is None:
        return words("na")
    proof = words("fit.proof_short", next=result.next.batch, outcome=words(f"outcome.{result.next.outcome}"))
    if is_capped(result) and result.predicted_batch is not None and result.predicted_batch > (result.batch or 0):
        return words("fit.proof_predicted", proof=proof, batch=result.predicted_batch)
    return proof


def probes_table(result: FitResult, words: Words) -> Table:
    """Every try in the order it was made."""
    return Table(
        title=words("fit.probes"),
        columns=[
            Column(name=words("col.batch")),
            Column(name=words("col.outcome"), is_number=False),
            Column(name=words("col.peak")),
            Column(name=words("col.of_limit"), rank=1),
            Column(name=words("col.wall")),
        ],
        rows=[
            [
                str(probe.batch),
                Cell(
                    text=_outcome(probe, words),
                    style="good" if probe.outcome == "ok" else "warn",
                ),
                _bytes(probe.peak_bytes, words),
                words("na") if probe.peak_bytes is None else _share(probe.peak_bytes, result.limit_bytes),
                units.format_seconds(probe.wall_s),
            ]
            for probe in result.probes
        ],
    )


def _outcome(probe: ProbeRow, words: Words) -> str:
    outcome = words(f"outcome.{probe.outcome}")
    return words("because", what=outcome, why=words.said(probe.detail)) if probe.detail else outcome


def facts_of(result: FitResult, words: Words) -> Facts:
    """The batch, the limit, prediction beside measurement, and the proof."""
    if result.batch is None:
        needs = result.predicted_peak_bytes
        none = words("fit.batch_none") if needs is None else words("fit.batch_needs", needs=units.format_bytes(needs))
        batch = Fact(label=words("fit.batch"), value=none, style="bad")
    elif not result.verified:
        batch = Fact(label=words("fit.batch"), value=words("fit.batch_predicted", batch=result.batch))
    elif is_capped(result):
        batch = Fact(
            label=words("fit.batch"),
            value=words(
                "fit.capped",
                batch=result.batch,
                cap=words.said(result.details.get("capped_by", words("fit.capped_max"))),
            ),
            style="strong",
        )
    else:
        batch = Fact(label=words("fit.batch"), value=str(result.batch), style="strong")
    limit = words(
        "fit.limit_value", limit=units.format_bytes(result.limit_bytes), source=words.said(result.limit_source)
    )
    rows = [
        batch,
        Fact(label=words("fit.limit"), value=limit),
        Fact(label=words("fit.predicted"), value=_predicted(result, words)),
        *_measured(result, words),
        Fact(label=words("fit.proof"), value=proof_text(result, words)),
    ]
    if "repeated_batch" in result.details:
        text = words("fit.repeated_value", batch=result.details["repeated_batch"])
        rows.append(Fact(label=words("fit.repeated"), value=text, style="warn"))
    if "plan" in result.details:
        rows.append(_plan(result.details["plan"], words))
    return Facts(rows=rows)


def _plan(plan: Mapping[str, Any], words: Words) -> Fact:
    """How the wanted global batch is reached, and whether its micro-batch ran that way."""
    label = words("fit.plan")
    if plan["micro_batch"] is None:
        return Fact(label=label, value=words("fit.plan_none", n=plan["global_batch"]), style="bad")
    key = "fit.plan_ran" if plan["verified"] else "fit.plan_predicted"
    numbers = {"n": plan["global_batch"], "micro": plan["micro_batch"], "steps": plan["n_accumulate"]}
    return Fact(label=label, value=words(key, **numbers))


def _predicted(result: FitResult, words: Words) -> str:
    """The predicted batch, and the predicted peak of the batch that was found (of the smallest, when none was)."""
    peak = _bytes(result.predicted_peak_bytes, words)
    if result.predicted_batch is None or result.predicted_peak_bytes is None:
        return words("na")
    if result.predicted_batch == 0:
        return words("fit.predicted_none", peak=peak)
    if result.batch is None or result.batch == result.predicted_batch:
        return words("fit.predicted_value", batch=result.predicted_batch, peak=peak)
    return words("fit.predicted_other", batch=result.predicted_batch, peak=peak, found=result.batch)


def _measured(result: FitResult, words: Words) -> list[Fact]:
    if result.measured_peak_bytes is None:
        return []
    key, more = "fit.measured_value", {}
    predicted = result.predicted_peak_bytes
    if predicted is not None:
        side = "fit.too_high" if predicted >= result.measured_peak_bytes else "fit.too_low"
        error = error_text(predicted, result.measured_peak_bytes).lstrip("+-")
        key, more = "fit.error", {"error": error, "side": words(side)}
    value = words(
        key,
        peak=units.format_bytes(result.measured_peak_bytes),
        batch=result.batch,
        share=_share(result.measured_peak_bytes, result.limit_bytes),
        **more,
    )
    return [Fact(label=words("fit.measured"), value=value)]


def _error(result: FitResult, words: Words) -> str:
    if result.predicted_peak_bytes is None or not result.measured_peak_bytes:
        return words("na")
    return error_text(result.predicted_peak_bytes, result.measured_peak_bytes)


def _bytes(n_bytes: int | None, words: Words) -> str:
    return words("na") if n_bytes is None else units.format_bytes(n_bytes)


def _share(n_bytes: int, limit_bytes: int) -> str:
    return units.format_percent(n_bytes / limit_bytes)
