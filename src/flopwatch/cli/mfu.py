"""`flopwatch mfu`: MFU and HFU of a run that you already have."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from flopwatch.api.count import default_seq_len, resolve_spec
from flopwatch.api.mfu import mfu_under
from flopwatch.cli.mfu_options import PeakOptions, ThroughputOptions, conventions
from flopwatch.cli.options import ModelOptions, PlotOptions, SeqLen
from flopwatch.cli.output import emit
from flopwatch.cli.request import request
from flopwatch.compare.mfu import Run
from flopwatch.compare.utilization import utilization_warnings
from flopwatch.device.detect import environment
from flopwatch.record import make_record
from flopwatch.workload import Phase


def mfu(
    model: str,
    *,
    seq: SeqLen | None = None,
    speed: ThroughputOptions | None = None,
    peak: PeakOptions | None = None,
    phase: Phase = "train",
    recompute: str | None = None,
    attention: Literal["auto", "math", "flash"] = "auto",
    convention: str = "matmul",
    convention_file: Path | None = None,
    model_options: ModelOptions | None = None,
    output: PlotOptions | None = None,
) -> None:
    """MFU and HFU of a run that you already have, under any convention or all; needs no torch.

    Parameters
    ----------
    model
        A preset (gpt-xl, llama-3.1-8b), a Hugging Face config.json or its folder, a spec file, hf:ORG/NAME.
    seq
        Tokens in a sequence, 8k = 8192; 1024 or the whole context where that is shorter.
    phase
        What ran: train is forward and backward.
    recompute
        What was computed again in backward, for HFU: none, full, selective, or what the convention knows.
    attention
        flash: a fused kernel, which computes the scores again in backward (HFU under the matmul conventions).
    convention
        How FLOPs are counted (docs/conventions.md), or `all` for one line under each.
    convention_file
        A TOML file with conventions of your own.
    """
    speed, peak = speed or ThroughputOptions(), peak or PeakOptions()
    spec = resolve_spec(model, (model_options or ModelOptions()).changes())
    run = Run(
        spec=spec,
        seq_len=seq if seq is not None else default_seq_len(spec),
        throughput=speed.throughput(),
        dtype=peak.dtype,
        attention_dtype=peak.attention_dtype,
        head_dtype=peak.head_dtype,
        phase=phase,
        recompute=recompute,
        uses_flash=attention == "flash",
    )
    rules = conventions(convention, convention_file)
    results = mfu_under(run, rules, device=peak.device, peak_tflops=peak.peaks(), peak_set=peak.peak_set)
    rows = [row for result in results for row in result.utilization]
    asked = request(model=model, convention=convention, spec=spec.to_dict())
    record = make_record(
        "mfu", environment=environment(), request=asked, results=results, warnings=utilization_warnings(rows)
    )
    emit(record, output or PlotOptions())
