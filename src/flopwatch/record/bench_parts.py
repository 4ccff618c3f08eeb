"""What a benchmark's result may hold besides the step: decoding, the curve over batches, choices set side by side."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class BandwidthRow(msgspec.Struct, frozen=True, kw_only=True):
    """Memory-bandwidth utilization: bytes a second over a bandwidth, both kept; None with a reason when unknown."""

    fraction: float | None
    bytes_per_s: float
    bandwidth_bytes_per_s: float | None
    bandwidth_kind: Literal["datasheet", "measured"]
    bandwidth_source: str | None
    reason: str | None = None


class DecodeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Decoding one token for each sequence of the batch, with `n_keys` keys in the cache, the new one included.

    `weights_bytes` and `kv_bytes` are what one step must read at least: each matmul's weights once for the whole
    batch, and the keys and values of every sequence. Per token they are divided by the batch.
    """

    time_per_token_s: float
    n_keys: int
    flops_per_token: float
    bytes_per_token: float | None
    weights_bytes: int | None
    kv_bytes: int | None
    utilization: list[BandwidthRow]
    reason: str | None = None


class BatchPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One batch of the curve. The interval holds the true median with 95 % confidence; None for one that did not run.

    `mfu` is against the datasheet's peak where there is one, else against the measured one (`mfu_peak_kind`).
    """

    batch: int
    outcome: Literal["ok", "oom", "failed"]
    tokens_per_s: float | None = None
    tokens_per_s_interval: list[float] | None = None
    step_s: float | None = None
    mfu: float | None = None
    mfu_peak_kind: str | None = None
    peak_memory_bytes: int | None = None
    detail: str | None = None


class AccumulationPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How a wanted number of sequences a step is reached: `n_accumulate` micro-batches of `micro_batch` each.

    `tokens_per_s` is read off the curve: between two measured batches when `is_between`.
    """

    global_batch: int
    micro_batch: int
    n_accumulate: int
    tokens_per_s: float
    is_between: bool


class BatchSearch(msgspec.Struct, frozen=True, kw_only=True):
    """How the best batch was found: every point that was measured, and why the search ended there."""

    curve: list[BatchPoint]
    n_runs: int
    largest_predicted: int | None
    end: str
    plan: AccumulationPlan | None = None


class ChoiceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One thing changed from the base: what it buys in tokens/s, and the interval that this lies in.

    `pays` is None where the interval holds no change: within the noise; and where the timing was `disturbed`, by other
    work on the machine or by steps that did not settle. A choice that did not run has its reason. `n_rounds` is there
    where change and interval are those of so many rounds in which choice and base were timed in turn.
    """

    choice: str
    value: str
    tokens_per_s: float | None = None
    change_fraction: float | None = None
    interval_fraction: list[float] | None = None
    pays: bool | None = None
    step_s: float | None = None
    peak_memory_bytes: int | None = None
    reason: str | None = None
    disturbed: str | None = None
    n_rounds: int | None = None
    workload: dict[str, Any] = {}


class GapPart(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a step: seconds that it took, seconds that the roofline gives it, and where the first come from."""

    name: Literal["matmul", "attention", "memory", "optimizer", "overhead", "data", "unexplained"]
    measured_s: float
    roofline_s: float
    source: str

    @property
    def gap_s(self) -> float:
        """What is lost in it."""
        return self.measured_s - self.roofline_s


class GapSplit(msgspec.Struct, frozen=True, kw_only=True):
    """Why a step is slower than its roofline: parts that add up to the measured time, `unexplained` included.

    `data` is there to say that it is 0: a benchmark makes its inputs before the clock starts.

    `matmuls_alone_s` is what the step's matmuls take at their shapes outside of it, `profiled_s` the step under the
    profiler, where the operators' times come from: both are there to be compared.
    """

    step_s: float
    roofline_s: float
    roofline_source: str
    parts: list[GapPart]
    profiled_s: float
    matmuls_alone_s: float | None
    notes: list[str] = []
