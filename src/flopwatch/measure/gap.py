"""The probes behind "why is it low": the step under the profiler, its matmuls alone, the step on almost no data."""

from __future__ import annotations

from typing import Any

import msgspec

from flopwatch.cost.traffic import linears
from flopwatch.measure.bench import BenchRequest, bench_step
from flopwatch.measure.series import ProbeSeries, Progress, answer_of
from flopwatch.model.own import OwnModel, import_from, probe_arguments
from flopwatch.model.spec import ModelSpec
from flopwatch.probe.protocol import ProbeRequest
from flopwatch.workload import Workload


def profile_step(request: BenchRequest, series: ProbeSeries) -> dict[str, Any]:
    """The step's operators with the time in each (see the job of that name)."""
    series.watch(Progress(label=f"{request.spec.name} {request.workload.phase}: the step under the profiler"))
    arguments = {**probe_arguments(request.spec), "workload": request.workload.to_dict()}
    return answer_of(series.ask(_probe("profile_step", arguments, request)), what="profiling the step")


def matmuls_alone_s(request: BenchRequest, series: ProbeSeries) -> float | None:
    """Seconds that the linear layers of a step take by themselves; None where experts share them out."""
    spec = request.spec
    if isinstance(spec, OwnModel) or spec.moe is not None:
        return None
    series.watch(Progress(label=f"{spec.name}: its matmuls alone"))
    arguments = {"dtype": request.workload.dtype, "matmuls": matmuls_of(spec, request.workload)}
    found = answer_of(series.ask(_probe("time_matmuls", arguments, request)), what="timing the matmuls")
    return float(found["total_s"])


def empty_step_s(request: BenchRequest, series: ProbeSeries) -> float | None:
    """Seconds of a step of as many operators that do next to nothing; None for a network that cannot be shrunk."""
    small = None if isinstance(request.spec, OwnModel) else shrunk(request.spec)
    if small is None:
        return None
    work = msgspec.structs.replace(
        request.workload, batch=1, seq_len=min(request.workload.seq_len, 4), optimizer="none"
    )
    asked = msgspec.structs.replace(request, spec=small, workload=work)
    return bench_step(asked, series).timing.median_s


def matmuls_of(spec: ModelSpec, workload: Workload) -> list[dict[str, Any]]:
    """Every linear layer's matmuls in one step: forward, again where it is recomputed, and both gradients."""
    found = []
    for linear in linears(spec, msgspec.structs.replace(workload, n_accumulate=1)):
        sizes = {"rows": linear.rows, "d_in": linear.d_in, "d_out": linear.d_out}
        calls = linear.calls * workload.n_accumulate
        is_again = workload.is_train and workload.recompute == "full" and linear.part.startswith("layers.")
        found.append({"kind": "forward", **sizes, "calls": calls * (2 if is_again else 1)})
        if workload.is_train:
            found += [{"kind": kind, **sizes, "calls": calls} for kind in ("input", "weight")]
    return found


def shrunk(spec: ModelSpec) -> ModelSpec | None:
    """The same layers two numbers wide a head; None with experts or latent attention."""
    if spec.moe is not None or spec.mla is not None:
        return None
    d_model = 2 * spec.n_heads
    return msgspec.structs.replace(
        spec, d_model=d_model, d_head=2, d_ff=4, vocab_size=8, padded_vocab_size=8, d_embed=d_model
    )


def _probe(job: str, arguments: dict[str, Any], request: BenchRequest) -> ProbeRequest:
    return ProbeRequest(
        job=job,
        arguments=arguments,
        limit_bytes=request.limit.limit_bytes,
        device=request.device,
        timeout_s=request.timeout_s,
        n_threads=request.n_threads,
        import_from=import_from(request.spec),
    )
