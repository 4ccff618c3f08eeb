"""`flopwatch bench`: how fast a step runs here."""

from __future__ import annotations

import msgspec

from flopwatch import units
from flopwatch.api.bench import bench as bench_model
from flopwatch.api.count import default_seq_len, resolve_spec
from flopwatch.api.fit import fit as fit_model
from flopwatch.cli.options import Bytes, ModelOptions, OutputOptions, RunOptions, StepOptions
from flopwatch.cli.output import emit
from flopwatch.cli.request import request
from flopwatch.cli.session import check_store, session
from flopwatch.cost.convention import DEFAULT, find_convention
from flopwatch.device.detect import environment
from flopwatch.device.machine import Machine
from flopwatch.errors import InputError
from flopwatch.measure.dtype import default_dtype
from flopwatch.measure.fit import does_not_fit
from flopwatch.measure.series import ProbeSeries
from flopwatch.model.spec import ModelSpec
from flopwatch.record import make_record
from flopwatch.workload import Workload


def bench(
    model: str,
    *models: str,
    batch: str = "1",
    limit: Bytes | None = None,
    convention: str = DEFAULT,
    step: StepOptions | None = None,
    model_options: ModelOptions | None = None,
    run: RunOptions | None = None,
    output: OutputOptions | None = None,
) -> None:
    """How fast a step runs here: step time, tokens/s, FLOP/s, MFU and HFU, peak memory.

    The step runs in a process of its own: warm-up until it is steady, then at least five samples. MFU and HFU stand
    against the datasheet's peak and the one measured here.

    Parameters
    ----------
    model
        A preset (gpt-small, llama-3.1-8b), a Hugging Face config.json or its folder, a spec file, hf:ORG/NAME.
    models
        More models.
    batch
        Sequences in one step, or `max` for the largest that fits.
    limit
        With --batch max, the memory that the batch has to fit in.
    convention
        How FLOPs are counted (docs/conventions.md).
    """
    step, run, output = step or StepOptions(), run or RunOptions(), output or OutputOptions()
    find_convention(convention)
    wanted = _batch(batch, limit)
    specs = [resolve_spec(name, (model_options or ModelOptions()).changes()) for name in (model, *models)]
    for spec in specs:
        spec.check_seq_len(step.workload(seq_len=default_seq_len(spec), dtype="fp32").seq_len)
    check_store(run)
    machine = ProbeSeries().machine(step.device)
    works = [step.workload(seq_len=default_seq_len(spec), dtype=default_dtype(machine)) for spec in specs]
    asked = request(
        models=[spec.to_dict() for spec in specs],
        workload=works[0].to_dict(),
        batch=batch,
        limit_bytes=limit,
        convention=convention,
        device=step.device,
    )
    where = environment(machine)
    timeout_s = run.timeout or 1800.0
    with session("bench", asked=asked, environment=where, options=run, output=output) as made:
        results = []
        for spec, work in zip(specs, works, strict=True):
            sized = _sized(spec, work, wanted, limit, made.series, machine)
            results.append(
                bench_model(
                    spec,
                    sized,
                    convention=convention,
                    timeout_s=timeout_s,
                    series=made.series,
                    machine=machine,
                    store=made.store,
                )
            )
        notes = [note for result in results for note in result.details["notes"]]
        record = made.finish(make_record("bench", environment=where, request=asked, results=results, warnings=notes))
    emit(record, output)


def _batch(text: str, limit_bytes: int | None) -> int | None:
    """The batch that was asked for; None for the largest that fits."""
    if text == "max":
        return None
    if text == "best":
        raise InputError("--batch best is not offered yet", hint="use --batch max, or a number")
    if limit_bytes is not None:
        raise InputError("--limit has no meaning with a fixed batch", hint="use --batch max")
    return Workload(batch=units.parse_count(text)).batch


def _sized(
    spec: ModelSpec, work: Workload, batch: int | None, limit_bytes: int | None, series: ProbeSeries, machine: Machine
) -> Workload:
    """The workload at the wanted batch, or at the largest that fits; raises DoesNotFitError when none does."""
    if batch is None:
        found = fit_model(spec, work, limit_bytes=limit_bytes, series=series, machine=machine)
        if found.batch is None:
            raise does_not_fit(found)
        batch = found.batch
    return msgspec.structs.replace(work, batch=batch)
