"""What stands beside the main figures of a report: other roofs of a roofline, a step under every convention."""

from __future__ import annotations

from typing import Literal

import msgspec


class RoofRow(msgspec.Struct, frozen=True, kw_only=True):
    """One ceiling of a device for one dtype: its FLOP/s and its bandwidth, and where they come from."""

    kind: Literal["datasheet", "measured", "user"]
    flops_per_s: float
    bandwidth_bytes_per_s: float
    source: str


class ConventionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One measured step as one convention counts it. The peaks of `mfu` and `hfu` are those of the benchmark, by kind.

    `step_s` is the benchmark's median, so that each fraction is FLOPs / step_s / peak.
    """

    convention: str
    formula: str
    phase: str
    batch: int
    step_s: float
    model_flops: int
    hardware_flops: int
    mfu: dict[str, float]
    hfu: dict[str, float]
