"""`flopwatch roofline`: how fast a step could be on a device, and what binds it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from cyclopts import Parameter

from flopwatch import workload
from flopwatch.api.count import default_seq_len
from flopwatch.api.own import resolve_model, settle
from flopwatch.api.roofline import (
    datasheet_roof,
    measured_roof,
    roofline_by_trace,
    roofline_of_own,
    roofs_beside,
)
from flopwatch.cli.options import (
    Count,
    DTypeOption,
    ModelOptions,
    PlotOptions,
    SeqLen,
    StoreOptions,
    refuse_outside_training,
)
from flopwatch.cli.output import emit, note
from flopwatch.cli.request import request
from flopwatch.compare.roofline import Roof
from flopwatch.compare.roofline import roofline as roofline_of_spec
from flopwatch.device.detect import environment
from flopwatch.errors import InputError
from flopwatch.measure.dtype import default_dtype
from flopwatch.measure.series import ProbeSeries
from flopwatch.model.own import OwnModel
from flopwatch.record import RoofRow, make_record
from flopwatch.store import Store
from flopwatch.workload import Workload

_HERE = frozenset({"auto", "here", "cpu", "cuda", "rocm", "xpu", "mps"})


def roofline(
    model: str,
    *,
    device: str = "auto",
    batch: Count = 1,
    seq: SeqLen | None = None,
    phase: workload.Phase = "train",
    dtype: DTypeOption = None,
    optimizer: workload.Optimizer | None = None,
    recompute: workload.Recompute = "none",
    attention: workload.Attention = "auto",
    peak_tflops: float | None = None,
    bandwidth_gb_per_s: float | None = None,
    trace: Annotated[bool, Parameter(negative="")] = False,
    model_options: ModelOptions | None = None,
    store: StoreOptions | None = None,
    output: PlotOptions | None = None,
) -> None:
    """The least time that a step can take: each operator bound by compute or by memory, and the MFU to expect at most.

    Parameters
    ----------
    model
        A preset, a Hugging Face config.json or its folder, a spec file, hf:ORG/NAME, or package.module:factory, whose
        step is traced.
    device
        A card by name ("A100 SXM4 80GB"): its datasheet, without torch. auto, cpu, cuda: this machine's measured peak.
    batch
        Sequences in one step.
    seq
        Tokens in a sequence, 8k = 8192; 1024 or the whole context where that is shorter.
    phase
        forward: all logits. train: with backward and optimizer. prefill: fills the KV cache. decode: one token each.
    dtype
        bf16 for a card; what is fast here for this machine.
    optimizer
        The optimizer of a training step: adamw when left out.
    recompute
        full: every layer's forward runs again in backward.
    attention
        math writes the scores out; auto and flash keep them in one kernel.
    peak_tflops
        A matmul peak of your own, in TFLOP/s; wins over the device's.
    bandwidth_gb_per_s
        A memory bandwidth of your own, in GB/s.
    trace
        The operators of the real network from a trace (needs torch), instead of the closed forms.
    """
    output = output or PlotOptions()
    for option, value in (("--peak-tflops", peak_tflops), ("--bandwidth-gb-per-s", bandwidth_gb_per_s)):
        if value is not None and not 0 < value < 1e9:
            raise InputError(f"{option} {value:g} is not a positive rate", hint="give TFLOP/s or GB/s")
    refuse_outside_training(phase, {"--optimizer": optimizer})
    own = {"peak_tflops": peak_tflops, "bandwidth_gb_per_s": bandwidth_gb_per_s}
    spec = resolve_model(model, (model_options or ModelOptions()).changes())
    series = ProbeSeries()
    work = Workload(
        batch=batch, seq_len=seq if seq is not None else default_seq_len(spec), phase=phase, dtype=dtype or "fp32",
        optimizer=optimizer or "adamw", recompute=recompute, attention=attention,
    )  # fmt: skip
    if isinstance(spec, OwnModel):
        note(f"running your code: {spec.name}", output)
        work = settle(spec, work, series, is_dtype_given=dtype is not None, is_seq_len_given=seq is not None)
        dtype = work.dtype
    roof, others, dtype = _roof(device, dtype, own, store or StoreOptions(), output)
    work = msgspec.structs.replace(work, dtype=dtype)
    if isinstance(spec, OwnModel):
        result = roofline_of_own(spec, work, series, roof=roof)
    elif trace:
        result = roofline_by_trace(spec, work, roof=roof)
    else:
        result = roofline_of_spec(spec, work, roof)
    result = msgspec.structs.replace(result, other_roofs=others)
    asked = request(model=model, device=device, workload=work.to_dict(), trace=trace, spec=spec.to_dict(), **own)
    emit(make_record("roofline", environment=environment(), request=asked, results=[result]), output)


def _roof(
    device: str, dtype: workload.DType | None, own: dict[str, float | None], store: StoreOptions, output: PlotOptions
) -> tuple[Roof, list[RoofRow], workload.DType]:
    """The roof that is meant, what stands beside it, and the dtype of the work."""
    if device.partition(":")[0] not in _HERE:
        named: workload.DType = dtype or "bf16"
        return datasheet_roof(device, named, **own), [], named
    machine = ProbeSeries().machine("auto" if device == "here" else device)
    chosen: workload.DType = dtype or default_dtype(machine)
    with Store(store.store) as kept:
        roof = measured_roof(machine, chosen, kept, **own, on_measure=lambda why: note(f"{why}: measuring it", output))
    return roof, roofs_beside(machine, chosen), chosen
