"""fw.fit: the largest batch that fits, predicted and then proved by running it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import overload

import msgspec

from flopwatch.api.count import default_seq_len
from flopwatch.api.fit_step import Step, StepFit, fit_step
from flopwatch.api.own import OwnWork, own_memory, resolve_model, settle
from flopwatch.api.step_memory import StepMemory
from flopwatch.device.catalog import load_device
from flopwatch.device.detect import detect
from flopwatch.device.machine import Machine
from flopwatch.errors import InputError
from flopwatch.measure.accumulation import check_global_batch, with_plan
from flopwatch.measure.batch_search import Grid, Predict
from flopwatch.measure.dtype import check_dtype, default_dtype
from flopwatch.measure.fit import FitRequest, fit_batch, predict_batch
from flopwatch.measure.limit import Headroom, card_limit, free_limit, given_limit, less_headroom
from flopwatch.measure.series import ProbeSeries
from flopwatch.model.own import Model, OwnModel
from flopwatch.record import FitResult
from flopwatch.workload import Workload

_HERE = ("auto", "cpu", "cuda", "rocm", "xpu", "mps")


@overload
def fit(
    model: str | Model,
    workload: Workload | None = None,
    *,
    limit_bytes: int | None = None,
    headroom: Headroom | None = None,
    global_batch: int | None = None,
    device: str = "auto",
    grid: Grid | None = None,
    timeout_s: float | None = None,
    changes: Mapping[str, str] | None = None,
    series: ProbeSeries | None = None,
    machine: Machine | None = None,
) -> FitResult: ...


@overload
def fit(
    *,
    step: Step,
    limit_bytes: int | None = None,
    device: str | StepMemory = "auto",
    grid: Grid | None = None,
    n_steps: int | None = None,
) -> StepFit: ...


def fit(
    model: str | Model | None = None,
    workload: Workload | None = None,
    *,
    step: Step | None = None,
    limit_bytes: int | None = None,
    headroom: Headroom | None = None,
    global_batch: int | None = None,
    device: str | StepMemory = "auto",
    grid: Grid | None = None,
    n_steps: int | None = None,
    timeout_s: float | None = None,
    changes: Mapping[str, str] | None = None,
    series: ProbeSeries | None = None,
    machine: Machine | None = None,
) -> FitResult | StepFit:
    """The largest batch of `workload` (its own batch is not used) that runs, each try in a process of its own.

    `limit_bytes` is what the work may allocate: on a CPU on top of the idle process that has imported torch, on an
    accelerator in all; left out, it is what is free now less a headroom. `series` may bring a journal that keeps every
    try. `batch` of the result is None when not even 1 fits. `headroom` is kept free of the limit (of what is free: 10 %
    on a CPU, 3 % elsewhere). `global_batch` asks for `details["plan"]`: the micro-batch and the steps of accumulation
    that keep it. Raises ProbeError when the step does not run at all.

    With `step` instead of a model it is the largest batch that `step(batch)`, a function of your own, runs with
    `n_steps` (2) times in a row in this process, which keeps nothing of it (`StepFit`). The step really runs: a
    training step changes its weights. On a CPU `limit_bytes` then counts the tensors that it makes.
    """
    if step is not None:
        others: dict[str, object] = {
            "model": model,
            "workload": workload,
            "timeout_s": timeout_s,
            "changes": changes,
            "series": series,
        }
        others |= {"machine": machine, "headroom": headroom, "global_batch": global_batch}
        for name, value in others.items():
            if value is not None:
                raise InputError(f"{name} and step exclude each other", hint="a step brings its own model and inputs")
        return fit_step(
            step, limit_bytes=limit_bytes, device=device, grid=grid, n_steps=2 if n_steps is None else n_steps
        )
    if model is None:
        raise InputError("there is nothing to fit", hint="give a model, or step=")
    if n_steps is not None or not isinstance(device, str):
        what = "n_steps" if n_steps is not None else "a device of your own"
        raise InputError(f"{what} goes with step=", hint="a model's step runs as often as shows its peak")
    series = series if series is not None else ProbeSeries()
    machine = machine or series.machine(device)
    spec = resolve_model(model, changes)
    work = workload or Workload(seq_len=default_seq_len(spec), phase="train", dtype=default_dtype(machine))
    is_given = workload is not None
    if isinstance(model, str) or not is_given:
        work = settle(spec, work, series, is_dtype_given=is_given, is_seq_len_given=is_given)
    check_dtype(work.dtype, machine)
    if global_batch is not None:
        check_global_batch(global_batch, work)
    limit = free_limit(series, machine, headroom) if limit_bytes is None else given_limit(limit_bytes, headroom)
    request = FitRequest(
        spec=spec,
        workload=work,
        limit=limit,
        device=machine.torch_device,
        grid=grid or Grid(),
        timeout_s=600.0 if timeout_s is None else timeout_s,
    )
    if isinstance(spec, OwnModel):
        known = own_memory(spec, work, series, timeout_s=request.timeout_s)
        result = _with_facts(fit_batch(request, series, predict=known.peak_bytes), known)
    else:
        result = fit_batch(request, series)
    return result if global_batch is None else with_plan(result, request, global_batch, series)


def predict_fit(
    model: str | Model,
    workload: Workload,
    *,
    limit_bytes: int | None = None,
    headroom: Headroom | None = None,
    global_batch: int | None = None,
    device: str = "auto",
    grid: Grid | None = None,
    changes: Mapping[str, str] | None = None,
) -> FitResult:
    """The largest batch that is predicted to fit, on this machine or on a card of the catalogue; nothing is run.

    For a card left without `limit_bytes` the limit is its memory less a headroom. Needs no torch; code of the user's
    (`package.module:factory`) is traced in a process of its own, as a CPU runs it, and so only for this machine's CPU.
    """
    spec = resolve_model(model, changes)
    if device.partition(":")[0] in _HERE:
        machine = detect(device)
        torch_device, free_bytes = machine.torch_device, machine.memory_free_bytes
        if limit_bytes is None and free_bytes is None:
            raise InputError(f"the free memory of {machine.name} is unknown", hint="give --limit")
        if limit_bytes is not None:
            limit = given_limit(limit_bytes, headroom)
        else:
            limit = less_headroom(machine.kind, free_bytes or 0, headroom)
    else:
        card = load_device(device)
        torch_device = "cpu" if card.unit == "CPU" else "cuda"
        limit = card_limit(card, headroom) if limit_bytes is None else given_limit(limit_bytes, headroom)
    if global_batch is not None:
        check_global_batch(global_batch, workload)
    request = FitRequest(spec=spec, workload=workload, limit=limit, device=torch_device, grid=grid or Grid())
    if isinstance(spec, OwnModel):
        return _predict_own(spec, request, global_batch)
    workload.check_precision()
    result = predict_batch(request)
    return result if global_batch is None else with_plan(result, request, global_batch, None)


def check_predicts_own(model: Model, device: str) -> None:
    """Raise InputError for a prediction of the user's code on another device than a CPU; runs nothing."""
    if isinstance(model, OwnModel) and device not in {"auto", "cpu"}:
        raise InputError(
            f"the memory of {model.name} is predicted as a CPU runs it", hint="leave --predict-only or the device out"
        )


def _predict_own(own: OwnModel, request: FitRequest, global_batch: int | None) -> FitResult:
    check_predicts_own(own, request.device)
    series = ProbeSeries()

    def predict_of(asked: FitRequest) -> Predict:
        return own_memory(own, asked.workload, series).peak_bytes

    known = own_memory(own, request.workload, series)
    if known.no_prediction is not None:
        raise InputError(f"the memory of {own.name} cannot be predicted: {known.no_prediction}", hint="run it instead")
    result = _with_facts(predict_batch(request, predict=known.peak_bytes), known)
    return result if global_batch is None else with_plan(result, request, global_batch, None, predict_of=predict_of)


def _with_facts(result: FitResult, known: OwnWork) -> FitResult:
    """The result with what its batch is made of, what its prediction leaves out, and why there is none, where so."""
    facts: dict[str, object] = {"unit": known.unit}
    facts |= {"no_prediction": known.no_prediction} if known.no_prediction else {}
    notes = [*result.details.get("notes", ()), *known.notes]
    facts |= {"notes": notes} if notes else {}
    return msgspec.structs.replace(result, details={**result.details, **facts})
