"""`flopwatch fit`: the largest batch that fits."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from flopwatch.api.fit import check_predicts_own, predict_fit
from flopwatch.api.fit import fit as fit_model
from flopwatch.cli.notes import notes_of
from flopwatch.cli.options import Bytes, Count, ModelOptions, PlotOptions, RunOptions, StepOptions
from flopwatch.cli.output import emit
from flopwatch.cli.request import request
from flopwatch.cli.run_models import models_of, settled, step_of
from flopwatch.cli.session import check_store, session
from flopwatch.device.detect import environment
from flopwatch.errors import InputError
from flopwatch.measure.accumulation import check_global_batch
from flopwatch.measure.batch_search import MOST, Grid
from flopwatch.measure.dtype import default_dtype
from flopwatch.measure.fit import does_not_fit
from flopwatch.measure.limit import Headroom, given_limit, parse_headroom
from flopwatch.measure.series import ProbeSeries
from flopwatch.model.own import Model
from flopwatch.record import FitResult, Record, make_record


def fit(
    model: str,
    *models: str,
    limit: Bytes | None = None,
    headroom: str | None = None,
    global_batch: Count | None = None,
    max_batch: Annotated[Count | None, Parameter(name="--max")] = None,
    multiple_of: Count = 1,
    power_of_two: Annotated[bool, Parameter(negative="")] = False,
    predict_only: Annotated[bool, Parameter(negative="")] = False,
    step: StepOptions | None = None,
    model_options: ModelOptions | None = None,
    run: RunOptions | None = None,
    output: PlotOptions | None = None,
) -> None:
    """The largest batch that fits: predicted, then run, and proved by the next one that does not.

    Every try is a process of its own. On a CPU --limit is what the work may allocate on top of the idle process that
    has imported torch; on a GPU it is the allocator's total.

    Parameters
    ----------
    model
        A preset (gpt-small, llama-3.1-8b), a Hugging Face config.json or its folder, a spec file, hf:ORG/NAME, or
        package.module:factory, which runs your code (docs/models.md).
    models
        More models.
    limit
        Memory that the work may allocate, 2GiB; left out, what is free now less a headroom.
    headroom
        Memory to keep free of that, 5% or 512MiB; left out, nothing of a --limit, 10 % of what is free on a CPU, 3 % on
        a GPU.
    global_batch
        Plan a training step of that many sequences: the micro-batch that fits, and how many to accumulate.
    max_batch
        The largest batch to try.
    multiple_of
        Only multiples of this.
    power_of_two
        Only powers of two.
    predict_only
        Run nothing. With --device also for a card that is not here, by name (`flopwatch devices`).
    """
    step, run, output = step or StepOptions(), run or RunOptions(), output or PlotOptions()
    grid = _grid(max_batch, multiple_of, power_of_two=power_of_two)
    kept = None if headroom is None else parse_headroom(headroom)
    if limit is not None:
        given_limit(limit, kept)
    specs = models_of((model, *models), model_options, step)
    if global_batch is not None:
        check_global_batch(global_batch, step_of(specs[0], step, dtype="bf16"))
    if predict_only:
        wanted = _Wanted(limit_bytes=limit, headroom=kept, global_batch=global_batch, grid=grid)
        _predict(specs, step, wanted, run, output)
        return
    check_store(run)
    machine = ProbeSeries().machine(step.device)
    dtype = default_dtype(machine)
    asked = request(
        models=[spec.to_dict() for spec in specs],
        workload=step_of(specs[0], step, dtype=dtype).to_dict(),
        limit_bytes=limit,
        headroom=headroom,
        global_batch=global_batch,
        grid=msgspec.to_builtins(grid),
        device=step.device,
    )
    where = environment(machine)
    with session("fit", asked=asked, environment=where, options=run, output=output) as made:
        works = settled(specs, step, made.series, output, dtype=dtype, timeout_s=run.timeout)
        results = [
            fit_model(
                spec,
                work,
                limit_bytes=limit,
                headroom=kept,
                global_batch=global_batch,
                grid=grid,
                timeout_s=run.timeout or 600.0,
                series=made.series,
                machine=machine,
            )
            for spec, work in zip(specs, works, strict=True)
        ]
        record = made.finish(
            make_record("fit", environment=where, request=asked, results=results, warnings=notes_of(results))
        )
    _end(record, results, output)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What is asked of a prediction."""

    limit_bytes: int | None
    headroom: Headroom | None
    global_batch: int | None
    grid: Grid


def _predict(
    specs: list[Model],
    step: StepOptions,
    wanted: _Wanted,
    run: RunOptions,
    output: PlotOptions,
) -> None:
    if run.resume or run.timeout is not None:
        raise InputError("--resume and --timeout have no meaning with --predict-only", hint="nothing is run")
    for spec in specs:
        check_predicts_own(spec, step.device)
    works = settled(specs, step, ProbeSeries(), output, dtype="bf16")
    results = [
        predict_fit(
            spec,
            work,
            limit_bytes=wanted.limit_bytes,
            headroom=wanted.headroom,
            global_batch=wanted.global_batch,
            device=step.device,
            grid=wanted.grid,
        )
        for spec, work in zip(specs, works, strict=True)
    ]
    names = [spec.name for spec in specs]
    asked: dict[str, Any] = request(
        models=names,
        workload=works[0].to_dict(),
        limit_bytes=wanted.limit_bytes,
        global_batch=wanted.global_batch,
        device=step.device,
    )
    record = make_record("fit", environment=environment(), request=asked, results=results, warnings=notes_of(results))
    _end(record, results, output)


def _grid(max_batch: int | None, multiple_of: int, *, power_of_two: bool) -> Grid:
    most = max_batch if max_batch is not None else MOST
    return Grid(kind="power-of-two" if power_of_two else "all", multiple_of=multiple_of, max_batch=most)


def _end(record: Record, results: list[FitResult], output: PlotOptions) -> None:
    """Show what was found; a model that does not fit is an error (exit code 3) after the others are shown."""
    emit(record, output)
    for result in results:
        if result.batch is None:
            raise does_not_fit(result)
