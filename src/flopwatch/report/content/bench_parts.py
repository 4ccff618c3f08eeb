"""What is shown of a benchmark besides the step: decoding, the curve over batches, choices set side by side."""

from __future__ import annotations

from flopwatch import units
from flopwatch.record import BandwidthRow, DecodeFigures
from flopwatch.report.document import Fact
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
        shares = "; ".join(_share(row, words) for row in decode.utilization)
        facts.append(Fact(label=words("bench.mbu"), value=shares, style="strong"))
    return facts


def _work(decode: DecodeFigures, words: Words) -> str:
    flops = units.format_flops(decode.flops_per_token)
    if decode.bytes_per_token is None or decode.weights_bytes is None or decode.kv_bytes is None:
        return words("bench.token_work_unknown", flops=flops, reason=decode.reason)
    return words(
        "bench.token_work_value",
        flops=flops,
        read=units.format_bytes(decode.bytes_per_token),
        weights=units.format_bytes(decode.weights_bytes),
        cache=units.format_bytes(decode.kv_bytes),
    )


def _share(row: BandwidthRow, words: Words) -> str:
    if row.fraction is None or row.bandwidth_bytes_per_s is None:
        return words("bench.mbu_unknown", kind=words(f"kind.{row.bandwidth_kind}"), reason=row.reason)
    return words(
        "bench.mbu_value",
        percent=units.format_percent(row.fraction),
        bandwidth=units.format_bandwidth(row.bandwidth_bytes_per_s),
        source=row.bandwidth_source,
    )
