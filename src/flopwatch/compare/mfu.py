"""MFU and HFU of a run that somebody already had: its model, its speed, its devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Final, Literal, get_args

import msgspec

from flopwatch.compare.throughput import Throughput
from flopwatch.compare.utilization import Ceiling, reaches_window, run_dtypes, utilization_rows, window_notes
from flopwatch.cost.convention import DEFAULT, Convention, count_flops, find_convention
from flopwatch.cost.flops import StepFlops
from flopwatch.device.catalog import load_device, notebook_peak
from flopwatch.device.device import DTYPES
from flopwatch.errors import InputError
from flopwatch.model.spec import ModelSpec
from flopwatch.record import MfuResult, UtilizationRow
from flopwatch.workload import Phase, Workload

PeakSet = Literal["datasheet", "notebook"]
_NO_DEVICE: Final = "no device is named: give --device, or the peak with --peak-tflops"
_WAY_OUT: Final = "give --peak-tflops"
_MOST_TFLOPS: Final = 1e6  # above it the figure is in FLOP/s


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run: what was computed, how fast, in which dtypes, and what was recomputed.

    `recompute` None is what the convention's source takes for granted, which is nothing for most. `attention_dtype`
    and `head_dtype` are for a run that mixes dtypes; left out they follow from `dtype` and the convention. `uses_flash`
    counts the scores that a flash kernel computes again, under the conventions that count them (HFU only).
    """

    spec: ModelSpec
    seq_len: int
    throughput: Throughput
    dtype: str = "bf16"
    attention_dtype: str | None = None
    head_dtype: str | None = None
    phase: Phase = "train"
    recompute: str | None = None
    uses_flash: bool = False

    def __post_init__(self) -> None:
        self.spec.check_seq_len(self.seq_len)
        for dtype in self.dtypes:
            _check_dtype(dtype)
        if self.recompute not in {None, "none"} and self.phase != "train":
            raise InputError(
                f"recompute={self.recompute} has no meaning in phase {self.phase}",
                hint="activations are recomputed in a backward pass: use phase train",
            )

    @property
    def dtypes(self) -> list[str]:
        """Every dtype that the run can be asked a peak for."""
        named = [self.dtype, self.attention_dtype, self.head_dtype]
        return list(dict.fromkeys([*(dtype for dtype in named if dtype is not None), "bf16"]))

    def workload(self) -> Workload:
        """One sequence of the run; everything is linear in the batch."""
        return Workload(
            batch=1, seq_len=self.seq_len, phase=self.phase, attention="flash" if self.uses_flash else "auto"
        )


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise InputError(f"{dtype!r} is no dtype that peaks are given for", hint=f"there are {', '.join(DTYPES)}")


def find_ceiling(
    run: Run,
    *,
    device: str | None = None,
    peak_tflops: Mapping[str, float] | None = None,
    peak_set: PeakSet = "datasheet",
) -> Ceiling:
    """The peaks to divide by: the user's, else those of the named device in the named set, else none with a reason."""
    if peak_set not in get_args(PeakSet):
        raise InputError(
            f"peak_set={peak_set!r} is no table of peaks", hint=f"there are {', '.join(get_args(PeakSet))}"
        )
    if device is not None and not isinstance(device, str):
        raise InputError(f"device={device!r} is not a name", hint="give it as its driver reports it, like 'A100 SXM'")
    if peak_tflops:
        _check_peaks(peak_tflops)
        named = f" for {device}" if device else ""
        return Ceiling(
            kind="user",
            flops_per_s={dtype: tflops * 1e12 for dtype, tflops in peak_tflops.items()},
            sources={dtype: f"{dtype}, given with --peak-tflops{named}" for dtype in peak_tflops},
            reason=f"--peak-tflops is not given for every dtype of the run: give each, like {run.dtype}=312 bf16=312",
        )
    if device is None:
        return Ceiling(kind=peak_set, reason=_NO_DEVICE)
    return _notebook_ceiling(run, device) if peak_set == "notebook" else _datasheet_ceiling(run, device)


def _check_peaks(peak_tflops: Mapping[str, float]) -> None:
    for dtype, tflops in peak_tflops.items():
        _check_dtype(dtype)
        if isinstance(tflops, bool) or not isinstance(tflops, int | float):
            raise InputError(f"--peak-tflops {tflops!r} is not a number", hint="give the peak of one device in TFLOP/s")
        if not (isfinite(tflops) and tflops > 0):
            raise InputError(f"--peak-tflops {tflops} is not above zero", hint="give the peak of one device in TFLOP/s")
        if tflops > _MOST_TFLOPS:
            raise InputError(
                f"--peak-tflops {tflops:g} is more than any device does",
                hint=f"it is in TFLOP/s: is {tflops / 1e12:g} meant?",
            )


def _notebook_ceiling(run: Run, device: str) -> Ceiling:
    found = {dtype: notebook_peak(device, dtype) for dtype in run.dtypes}
    peaks = {dtype: peak for dtype, peak in found.items() if peak is not None}
    return Ceiling(
        kind="notebook",
        flops_per_s={d: peak.dense_flops_per_s for d, peak in peaks.items() if peak.dense_flops_per_s is not None},
        sources={dtype: peak.source for dtype, peak in peaks.items()},
        reason=f"the notebook's table has no {run.dtype} peak for {device!r}: {_WAY_OUT}",
    )


def _datasheet_ceiling(run: Run, device: str) -> Ceiling:
    try:
        found = load_device(device, dtype=run.dtype)
    except InputError as error:  # an unknown device is an answer: the rates stand, the share is n/a
        return Ceiling(kind="datasheet", reason=f"{error.message} ({error.hint or _WAY_OUT})")
    rates: dict[str, float] = {}
    sources: dict[str, str] = {}
    for dtype in run.dtypes:
        peak, source = found.peak(dtype), found.peak_source(dtype)
        if peak is not None and peak.dense_flops_per_s is not None and source is not None:
            rates[dtype], sources[dtype] = peak.dense_flops_per_s, source
    missing = [dtype for dtype in run.dtypes if dtype not in rates]
    reason = found.why_no_peak(missing[0]) if missing else None
    return Ceiling(kind="datasheet", flops_per_s=rates, sources=sources, reason=reason or _WAY_OUT)


def mfu_of_run(
    run: Run,
    ceiling: Ceiling,
    convention: Convention | str = DEFAULT,
    *,
    beside: Sequence[Convention | str] = (),
    device: str | None = None,
) -> MfuResult:
    """MFU and HFU of the run under one convention, and its rows under others `beside` it.

    Raises InputError when the convention does not say what the run's recomputation costs.
    """
    rule = find_convention(convention) if isinstance(convention, str) else convention
    recompute = _recompute(run, rule)
    step = count_flops(run.spec, run.workload(), rule, recompute=recompute)
    mfu, hfu = _rows(run, step, rule, ceiling)
    model_tflops, hardware_tflops = mfu.flops_per_s / 1e12, hfu.flops_per_s / 1e12
    return MfuResult(
        model=run.spec.name,
        tokens_per_s=run.throughput.all_tokens_per_s(run.seq_len),
        n_devices=run.throughput.n_devices,
        flops_per_token=step.model_flops / run.workload().n_tokens,
        model_tflops_per_device=model_tflops,
        hardware_tflops_per_device=hardware_tflops,
        stated_tflops_per_device=hardware_tflops if rule.quantity == "hardware" else model_tflops,
        stated_quantity=rule.quantity,
        mfu=mfu.fraction,
        hfu=hfu.fraction,
        convention=rule.name,
        peak_flops_per_s=mfu.peak_flops_per_s,
        peak_source=mfu.peak_source,
        peak_kind=mfu.peak_kind,
        device=device,
        reason=mfu.reason,
        seq_len=run.seq_len,
        dtype=run.dtype,
        phase=run.phase,
        recompute=recompute,
        utilization=[mfu, hfu],
        beside=[row for other in beside for row in mfu_of_run(run, ceiling, other).utilization],
        notes=_notes(run, rule, recompute),
        details={"title": rule.title, "formula": rule.formula, "source": rule.source},
    )


def _recompute(run: Run, rule: Convention) -> str:
    if run.recompute is not None:
        return run.recompute
    return rule.assumes if run.phase == "train" else "none"


def mfu_under_each(
    run: Run, ceiling: Ceiling, conventions: Sequence[Convention], *, device: str | None = None
) -> list[MfuResult]:
    """The run under each convention, `details.times_default` its FLOPs over those of the default one.

    Where a convention does not say what the run's recomputation costs, HFU is None with a reason; where none says it,
    InputError is raised.
    """
    if not any(run.recompute in {None, *rule.recomputes} for rule in conventions):
        known = dict.fromkeys(name for rule in conventions for name in rule.recomputes)
        raise InputError(f"no convention knows recompute {run.recompute}", hint=f"there are {', '.join(known)}")
    default = mfu_of_run(msgspec.structs.replace(run, recompute="none"), ceiling).flops_per_token
    results = [
        mfu_of_run(run, ceiling, rule, device=device)
        if run.recompute in {None, *rule.recomputes}
        else _without_hfu(run, ceiling, rule, device)
        for rule in conventions
    ]
    for result in results:
        result.details["times_default"] = result.flops_per_token / default
    return results


def _without_hfu(run: Run, ceiling: Ceiling, rule: Convention, device: str | None) -> MfuResult:
    found = mfu_of_run(msgspec.structs.replace(run, recompute="none"), ceiling, rule, device=device)
    return msgspec.structs.replace(
        found,
        hfu=None,
        hfu_reason=f"{rule.name} does not say what recompute {run.recompute} costs",
        hardware_tflops_per_device=None,
        stated_tflops_per_device=None if rule.quantity == "hardware" else found.stated_tflops_per_device,
        recompute=run.recompute,
        utilization=[row for row in found.utilization if row.name == "mfu"],
    )


def _rows(run: Run, step: StepFlops, rule: Convention, ceiling: Ceiling) -> list[UtilizationRow]:
    """MFU and HFU of the run whose step for one sequence is `step`."""
    tokens_per_s = run.throughput.all_tokens_per_s(run.seq_len)
    return utilization_rows(
        step,
        step_s=run.workload().n_tokens / tokens_per_s,
        dtypes=run_dtypes(run.dtype, rule, attention=run.attention_dtype, head=run.head_dtype),
        convention=rule.name,
        ceilings=[ceiling],
        n_devices=run.throughput.n_devices,
    )


def beside_by_default(run: Run, convention: Convention) -> list[str]:
    """The conventions whose figure stands beside the default one: causal, and the windows where there are any."""
    if convention.name != DEFAULT:
        return []
    is_reached = reaches_window(run.spec, run.seq_len)
    return ["matmul-causal", "matmul-window-exact"] if is_reached else ["matmul-causal"]


def _notes(run: Run, rule: Convention, recompute: str) -> list[str]:
    """What a reader of the figure may not expect of this convention, for this run."""
    spec = run.spec
    notes = window_notes(spec, run.seq_len, rule)
    if spec.tied_head and rule.weights == "no-input-embedding":
        notes.append(f"{rule.name} takes the table of a tied head away, and leaves out the head's work with it")
    if spec.moe is not None and rule.counts_parameters:
        notes.append(f"{rule.name} counts the active parameters of the experts")
    if spec.is_gated and rule.ffn == "two-matrices":
        notes.append(f"{rule.name} counts two of the three matrices of the gated FFN")
    if recompute != "none" and run.recompute is None:
        notes.append(f"{rule.name} takes recompute {recompute} for granted: say --recompute none where there was none")
    if run.uses_flash and not rule.in_kernel:
        notes.append(f"{rule.name} does not count the scores that a flash kernel computes again")
    has_one_dtype = run_dtypes(run.dtype, rule, attention=run.attention_dtype, head=run.head_dtype).names == {run.dtype}
    if has_one_dtype and run.dtype in {"fp8", "int8", "fp6", "fp4"}:
        notes.append(
            f"the whole model is divided by the {run.dtype} peak, attention and head too, which mostly run in bf16:"
            " --attention-dtype bf16 --head-dtype bf16 weighs the peaks"
        )
    return notes
