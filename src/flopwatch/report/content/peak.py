"""What is shown of a measured peak."""

from __future__ import annotations

from collections.abc import Sequence

from flopwatch import units
from flopwatch.record import PeakResult
from flopwatch.report.content.figures import notes_of
from flopwatch.report.document import Block, Fact, Facts, Heading
from flopwatch.report.messages import Words


def blocks(results: Sequence[PeakResult], words: Words) -> list[Block]:
    """One section a device and dtype."""
    shown: list[Block] = []
    for result in results:
        shown.append(Heading(text=words("peak.title", device=result.device, dtype=result.dtype)))
        shape = " x ".join(str(size) for size in result.shape)
        rate = words("peak.rate_value", rate=units.format_rate(result.flops_per_s), shape=shape)
        bandwidth = result.bandwidth_bytes_per_s
        shown.append(
            Facts(
                rows=[
                    Fact(label=words("peak.rate"), value=rate, style="strong"),
                    Fact(
                        label=words("peak.bandwidth"),
                        value=words("na") if bandwidth is None else units.format_bandwidth(bandwidth),
                    ),
                    Fact(label=words("peak.datasheet"), value=_datasheet(result, words)),
                ]
            )
        )
        shown += notes_of(result.details, words)
    return shown


def _datasheet(result: PeakResult, words: Words) -> str:
    if result.datasheet_flops_per_s is None or result.fraction is None:
        return words("peak.no_datasheet")
    return words(
        "peak.datasheet_value",
        percent=units.format_percent(result.fraction),
        peak=units.format_rate(result.datasheet_flops_per_s),
        source=words("kind.datasheet"),
    )
