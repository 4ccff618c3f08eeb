"""What stands beside a report's measurements: the step's roofline, and the same step under every convention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from flopwatch.compare.decode import BandwidthCeiling
from flopwatch.compare.roofline import Roof, roof_row, roofline
from flopwatch.compare.utilization import Ceiling
from flopwatch.cost.convention import convention_names, count_flops, find_convention
from flopwatch.errors import InputError
from flopwatch.model.spec import ModelSpec
from flopwatch.record import BenchResult, ConventionRow, RooflineResult
from flopwatch.workload import Workload

_KINDS: Final[tuple[Literal["measured", "datasheet"], ...]] = ("measured", "datasheet")


def roofs(
    device: str,
    dtype: str,
    ceilings: Sequence[Ceiling],
    bandwidths: Sequence[BandwidthCeiling],
    *,
    cache_bytes: int = 0,
) -> list[Roof]:
    """What is known of a device for a dtype, the measured roof first; a kind that lacks peak or bandwidth has none."""
    found = []
    for kind in _KINDS:
        peak = next((c for c in ceilings if c.kind == kind and dtype in c.flops_per_s), None)
        bandwidth = next((b for b in bandwidths if b.kind == kind and b.bytes_per_s is not None), None)
        if peak is None or bandwidth is None or bandwidth.bytes_per_s is None:
            continue
        found.append(
            Roof(
                device=device,
                kind=kind,
                flops_per_s={dtype: peak.flops_per_s[dtype]},
                bandwidth_bytes_per_s=bandwidth.bytes_per_s,
                peak_source=peak.sources[dtype],
                bandwidth_source=bandwidth.source or kind,
                cache_bytes=cache_bytes,
            )
        )
    return found


def roofline_under(spec: ModelSpec, workload: Workload, known: Sequence[Roof]) -> RooflineResult:
    """The roofline of a step under the first roof, others beside it; raises SpecError where there is no such form.

    `details` has the cache, with which the page works out other steps under that roof.
    """
    first, *others = known
    result = roofline(spec, workload, first)
    return msgspec.structs.replace(
        result,
        other_roofs=[roof_row(other, workload.dtype) for other in others],
        details={**result.details, "cache_bytes": first.cache_bytes},
    )


def convention_rows(spec: ModelSpec, workload: Workload, bench: BenchResult) -> list[ConventionRow]:
    """The timed step under every convention; one that does not say what the recomputation costs is left out."""
    rows = []
    for name in convention_names():
        rule = find_convention(name)
        try:
            step = count_flops(spec, workload, rule)
        except InputError:
            continue
        rows.append(
            ConventionRow(
                convention=name,
                formula=rule.formula,
                phase=bench.phase,
                batch=bench.batch,
                step_s=bench.step_s.median,
                model_flops=step.model_flops,
                hardware_flops=step.hardware_flops,
                mfu=_shares(step.model_flops, bench),
                hfu=_shares(step.hardware_flops, bench),
            )
        )
    return rows


def _shares(flops: int, bench: BenchResult) -> dict[str, float]:
    """The rate of `flops` in the benchmark's median step over each of its known peaks, by kind."""
    peaks = {row.peak_kind: row.peak_flops_per_s for row in bench.utilization if row.peak_flops_per_s is not None}
    return {kind: flops / bench.step_s.median / peak for kind, peak in peaks.items()}
