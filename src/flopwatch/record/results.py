"""Results by kind: frozen data in base units, the unit in the name. What each command puts into its record."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

import msgspec

from flopwatch.errors import InputError
from flopwatch.record import display
from flopwatch.record.bench_parts import BatchSearch, ChoiceRow, DecodeFigures, GapSplit
from flopwatch.record.report_parts import ConventionRow, RoofRow
from flopwatch.tally import Tally


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    """Common ground of all results: plain data out."""

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data, as it stands in the record."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        return data

    def to_json(self) -> str:
        """The result as JSON, as it stands in the record."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def to_markdown(self) -> str:
        """A table of all figures."""
        return display.to_markdown(self.to_dict())

    def _repr_html_(self) -> str:
        """The table of all figures, for a notebook."""
        return display.to_html(self.to_dict())


class Uncounted(_Result, frozen=True, kw_only=True):
    """An operator without a formula: what it is called, how often it ran, whether it looks like a matmul."""

    op: str
    calls: int
    looks_like_matmul: bool = False


class ParamParts(_Result, frozen=True, kw_only=True):
    """Parameters: all of them, those that are trained, those that one token passes, and by part."""

    total: int
    trainable: int
    parts: dict[str, int]
    active: int | None = None


class FlopParts(_Result, frozen=True, kw_only=True):
    """FLOPs of one step: `total` is forward + backward (model FLOPs); recompute and in_kernel are the hardware's."""

    forward: int
    backward: int
    recompute: int
    total: int
    per_token: float
    parts: dict[str, int]
    in_kernel: int = 0


class CountResult(_Result, frozen=True, kw_only=True):
    """How much work a model is."""

    model: str
    batch: int
    seq_len: int
    phase: str
    params: ParamParts
    flops: FlopParts
    convention: str
    source: Literal["closed-form", "trace"]
    uncounted: list[Uncounted] = []
    modules: dict[str, dict[str, int]] | None = None
    operators: list[dict[str, Any]] | None = None
    details: dict[str, Any] = {}

    @property
    def total(self) -> int:
        """FLOPs of forward and backward."""
        return self.flops.total

    def by_module(self, depth: int | None = None) -> dict[str, int]:
        """FLOPs of forward and backward by module path (of the closed form: by part), cut to `depth` pieces."""
        rows = self.flops.parts
        if self.modules is not None:
            rows = {path: row.get("forward", 0) + row.get("backward", 0) for path, row in self.modules.items()}
        return Tally(rows).at_depth(depth).to_dict() if depth is not None else dict(rows)

    def by_operator(self) -> dict[str, int]:
        """FLOPs of forward and backward by operator; raises InputError for a closed form, which has none."""
        if self.operators is None:
            raise InputError(f"the closed form of {self.model} has no operators", hint="trace the module itself")
        return {row["op"]: row.get("forward", 0) + row.get("backward", 0) for row in self.operators}


class MemoryResult(_Result, frozen=True, kw_only=True):
    """Peak memory by part, predicted."""

    model: str
    peak_bytes: int
    parts: dict[str, int]
    assumptions: list[str]
    source: Literal["closed-form", "trace"] = "closed-form"
    batch: int | None = None
    seq_len: int | None = None
    phase: str | None = None
    details: dict[str, Any] = {}


class ProbeRow(_Result, frozen=True, kw_only=True):
    """One try on the hardware: the batch, how it ended, what it took."""

    batch: int
    outcome: Literal["ok", "oom", "timeout", "crashed", "killed"]
    peak_bytes: int | None
    wall_s: float
    detail: str | None = None


class NextBatch(_Result, frozen=True, kw_only=True):
    """The proof that a batch is the largest: what happened to the one after it (`not tested` when nothing ran)."""

    batch: int
    outcome: str
    how: Literal["ran", "proved", "not tested"] = "ran"


class FitResult(_Result, frozen=True, kw_only=True):
    """The largest batch that fits; `batch` is None when not even 1 does.

    `predicted_parts` are the bytes of `predicted_peak_bytes` by part.
    """

    model: str
    phase: str
    seq_len: int
    dtype: str
    batch: int | None
    verified: bool
    predicted_batch: int | None
    predicted_peak_bytes: int | None
    measured_peak_bytes: int | None
    limit_bytes: int
    limit_source: str
    next: NextBatch | None
    probes: list[ProbeRow]
    details: dict[str, Any] = {}
    predicted_parts: dict[str, int] | None = None


_Seconds = Annotated[float, msgspec.Meta(gt=0)]


class StepTime(_Result, frozen=True, kw_only=True):
    """Seconds for one step: the median of the samples, their 10th and 90th percentile, and every sample."""

    median: _Seconds
    p10: _Seconds
    p90: _Seconds
    samples: list[_Seconds]


class UtilizationRow(_Result, frozen=True, kw_only=True):
    """An achieved rate over a peak, both kept. `fraction` is None when the peak is unknown; `reason` says why."""

    name: Literal["mfu", "hfu"]
    fraction: float | None
    convention: str
    flops_per_s: float
    peak_flops_per_s: float | None
    peak_kind: Literal["datasheet", "measured", "user", "notebook"]
    peak_source: str | None
    reason: str | None = None


class BenchResult(_Result, frozen=True, kw_only=True):
    """How fast a step runs here, from samples after warm-up.

    `decode` is there in that phase, `batch_search` where the best batch was looked for, `choices` where others were
    set beside it, `gap` where it was asked why the step is slower than its roofline.
    """

    model: str
    batch: int
    seq_len: int
    dtype: str
    phase: str
    step_s: StepTime
    tokens_per_s: float
    model_flops_per_s: float
    hardware_flops_per_s: float
    peak_memory_bytes: int | None
    utilization: list[UtilizationRow]
    n_warmup: int
    device: str
    details: dict[str, Any] = {}
    decode: DecodeFigures | None = None
    batch_search: BatchSearch | None = None
    choices: list[ChoiceRow] = []
    gap: GapSplit | None = None
    predicted_peak_bytes: int | None = None
    predicted_parts: dict[str, int] | None = None


class MfuResult(_Result, frozen=True, kw_only=True):
    """MFU and HFU of a run whose speed is known, under one convention.

    A convention's source prints one figure as "TFLOPs", model or hardware: it is `stated_tflops_per_device`.
    `utilization` has the rows that `mfu` and `hfu` come from, `beside` the same run under other conventions.
    """

    model: str
    tokens_per_s: float
    n_devices: int
    flops_per_token: float
    model_tflops_per_device: float
    mfu: float | None
    hfu: float | None
    convention: str
    peak_flops_per_s: float | None
    peak_source: str | None
    device: str | None = None
    reason: str | None = None
    seq_len: int | None = None
    dtype: str | None = None
    phase: str | None = None
    recompute: str | None = None
    peak_kind: str | None = None
    hardware_tflops_per_device: float | None = None
    stated_tflops_per_device: float | None = None
    stated_quantity: Literal["model", "hardware"] | None = None
    hfu_reason: str | None = None
    utilization: list[UtilizationRow] = []
    beside: list[UtilizationRow] = []
    notes: list[str] = []
    details: dict[str, Any] = {}


class PeakResult(_Result, frozen=True, kw_only=True):
    """The highest matmul rate that this machine reached, and its memory bandwidth."""

    device: str
    dtype: str
    flops_per_s: float
    shape: list[int]
    bandwidth_bytes_per_s: float | None
    datasheet_flops_per_s: float | None
    fraction: float | None
    details: dict[str, Any] = {}


class PeakRow(_Result, frozen=True, kw_only=True):
    """One published ceiling: dense is the denominator, sparse is only shown."""

    dtype: str
    unit: str
    accumulate: str | None
    dense_flops_per_s: float | None
    sparse_flops_per_s: float | None
    source: str
    is_default: bool = False
    confidence: str | None = None


class DeviceResult(_Result, frozen=True, kw_only=True):
    """One device variant and its published ceilings."""

    vendor: str
    device: str
    variant: str
    peaks: list[PeakRow]
    memory_bytes: int | None
    bandwidth_bytes_per_s: float | None
    details: dict[str, Any] = {}


class RooflineRow(_Result, frozen=True, kw_only=True):
    """The least time of one kind of operator in one stage, all its calls together, and what binds it.

    `cached_bytes` are not counted in `bytes`: they are taken to be found in a cache.
    """

    operator: str
    stage: Literal["forward", "backward", "recompute", "optimizer"]
    dtype: str
    calls: int
    flops: int
    bytes: int
    cached_bytes: int
    flops_per_byte: float | None
    time_s: float
    bound: Literal["compute", "memory"]


class RooflineResult(_Result, frozen=True, kw_only=True):
    """How fast a step could be: the least time by operator, and the highest MFU to expect.

    `compute_bound_fraction` is the share of the time that compute binds; `compute_bound_batch` the smallest batch at
    which every linear layer of the forward pass is bound by compute (None: no batch). `other_roofs` are what else is
    known of the device; the times are not of them.
    """

    model: str
    device: str
    phase: str
    batch: int
    seq_len: int
    dtype: str
    time_s: float
    tokens_per_s: float
    compute_bound_fraction: float
    highest_mfu: float
    model_flops: int
    compute_bound_batch: int | None
    peak_flops_per_s: float
    peak_kind: Literal["datasheet", "measured", "user"]
    peak_source: str
    bandwidth_bytes_per_s: float
    bandwidth_source: str
    operators: list[RooflineRow]
    source: Literal["closed-form", "trace"]
    assumptions: list[str]
    details: dict[str, Any] = {}
    other_roofs: list[RoofRow] = []


class CheckResult(_Result, frozen=True, kw_only=True):
    """One line of `doctor`: what was looked at, how it stands, the figures, and the way out where it falls short."""

    name: str
    outcome: Literal["ok", "n/a", "failed"]
    found: str
    way_out: str | None = None
    details: dict[str, Any] = {}


class ReportResult(_Result, frozen=True, kw_only=True):
    """Everything known of one model: work, fit, speed. The main job's result."""

    model: str
    counts: list[CountResult]
    fits: list[FitResult]
    benches: list[BenchResult]
    skipped: list[dict[str, str]] = []
    details: dict[str, Any] = {}
    rooflines: list[RooflineResult] = []
    conventions: list[ConventionRow] = []


class ChangeRow(_Result, frozen=True, kw_only=True):
    """One figure before and after. The change is a fraction of what it was before, with the interval it lies in.

    `beyond_noise` is None where a single sample on a side leaves the noise unknown; an exact figure has none.
    """

    figure: str
    before: float | int | None
    after: float | int | None
    change_fraction: float | None
    interval_fraction: list[float] | None
    beyond_noise: bool | None
    is_exact: bool
    reason: str | None = None


class CompareResult(_Result, frozen=True, kw_only=True):
    """What changed between two runs of the same thing: figure by figure, beyond the noise or not."""

    model: str
    what: str
    phase: str | None
    batch: int | None
    seq_len: int | None
    dtype: str | None
    changes: list[ChangeRow]
    details: dict[str, Any] = {}


RESULT_TYPES: Final[dict[str, type[_Result]]] = {
    "count": CountResult,
    "memory": MemoryResult,
    "fit": FitResult,
    "bench": BenchResult,
    "peak": PeakResult,
    "devices": DeviceResult,
    "mfu": MfuResult,
    "report": ReportResult,
    "compare": CompareResult,
    "roofline": RooflineResult,
    "doctor": CheckResult,
}
