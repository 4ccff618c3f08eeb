"""fw.mfu: MFU and HFU of a run whose speed is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flopwatch.api.count import default_seq_len, resolve_spec
from flopwatch.compare.mfu import PeakSet, Run, beside_by_default, find_ceiling, mfu_of_run, mfu_under_each
from flopwatch.compare.throughput import Throughput
from flopwatch.cost.convention import Convention, find_convention
from flopwatch.model.spec import ModelSpec
from flopwatch.record import MfuResult
from flopwatch.workload import Phase


def mfu(
    model: str | ModelSpec,
    *,
    seq_len: int | None = None,
    tokens_per_s: float | None = None,
    tokens_per_s_per_device: float | None = None,
    step_s: float | None = None,
    batch: int | None = None,
    samples_per_s: float | None = None,
    days: float | None = None,
    tokens: int | None = None,
    n_devices: int = 1,
    device: str | None = None,
    dtype: str = "bf16",
    attention_dtype: str | None = None,
    head_dtype: str | None = None,
    peak_tflops: float | Mapping[str, float] | None = None,
    peak_set: PeakSet = "datasheet",
    phase: Phase = "train",
    recompute: str | None = None,
    uses_flash: bool = False,
    convention: str | Convention = "matmul",
    changes: Mapping[str, str] | None = None,
) -> MfuResult:
    """MFU and HFU of a run under one convention, from its model, its speed (given in one way) and its devices.

    `seq_len` left out is 1024 tokens, or the whole context where that is shorter. `peak_tflops` (one number, or one
    for each dtype) wins over the device's. Without a peak `mfu` is None and `reason` says why. Raises InputError for
    throughput that is missing or contradicts itself, and for names that are not known.
    """
    spec = resolve_spec(model, changes)
    run = Run(
        spec=spec,
        seq_len=seq_len if seq_len is not None else default_seq_len(spec),
        throughput=Throughput(
            tokens_per_s=tokens_per_s,
            tokens_per_s_per_device=tokens_per_s_per_device,
            step_s=step_s,
            batch=batch,
            samples_per_s=samples_per_s,
            days=days,
            tokens=tokens,
            n_devices=n_devices,
        ),
        dtype=dtype,
        attention_dtype=attention_dtype,
        head_dtype=head_dtype,
        phase=phase,
        recompute=recompute,
        uses_flash=uses_flash,
    )
    peaks = peak_tflops if isinstance(peak_tflops, Mapping | None) else {dtype: peak_tflops}
    return mfu_under(run, [convention], device=device, peak_tflops=peaks, peak_set=peak_set)[0]


def mfu_under(
    run: Run,
    conventions: Sequence[str | Convention],
    *,
    device: str | None = None,
    peak_tflops: Mapping[str, float] | None = None,
    peak_set: PeakSet = "datasheet",
) -> list[MfuResult]:
    """The run under each convention; one alone has the figures that its readers expect `beside` it."""
    ceiling = find_ceiling(run, device=device, peak_tflops=peak_tflops, peak_set=peak_set)
    rules = [find_convention(rule) if isinstance(rule, str) else rule for rule in conventions]
    if len(rules) == 1:
        return [mfu_of_run(run, ceiling, rules[0], beside=beside_by_default(run, rules[0]), device=device)]
    return mfu_under_each(run, ceiling, rules, device=device)
