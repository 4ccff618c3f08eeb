"""The models of a command that runs them: named networks, and code of the user's, which is said to run."""

from __future__ import annotations

from collections.abc import Sequence

from flopwatch.api.count import default_seq_len
from flopwatch.api.own import check_own, resolve_model, settle
from flopwatch.cli.options import ModelOptions, OutputOptions, StepOptions
from flopwatch.cli.output import note
from flopwatch.errors import InputError
from flopwatch.measure.series import ProbeSeries
from flopwatch.model.own import Model, OwnModel
from flopwatch.workload import DType, Workload


def models_of(names: Sequence[str], options: ModelOptions | None, step: StepOptions) -> list[Model]:
    """What the names stand for; raises InputError for a step that one of them cannot be asked."""
    changes = (options or ModelOptions()).changes()
    models = [resolve_model(name, changes) for name in names]
    for model in models:
        work = step_of(model, step, dtype="bf16")
        model.check_seq_len(work.seq_len)
        if isinstance(model, OwnModel):
            check_own(work)
            if step.loss == "cross-entropy":
                raise InputError(
                    f"--loss cross-entropy cannot be promised for {model.name}",
                    hint="leave it out: its output's .loss is taken, else the cross-entropy of its logits",
                )
    return models


def step_of(model: Model, step: StepOptions, *, dtype: DType) -> Workload:
    """The step as it is asked, what was left out filled in."""
    return step.workload(seq_len=default_seq_len(model), dtype=dtype)


def settled(
    models: Sequence[Model],
    step: StepOptions,
    series: ProbeSeries,
    output: OutputOptions,
    *,
    dtype: DType,
    timeout_s: float | None = None,
) -> list[Workload]:
    """The step of each model as it will run; code of the user's is run once for its sizes, and that is said."""
    works = []
    for model in models:
        if isinstance(model, OwnModel):
            note(f"running your code: {model.name}", output)
        works.append(
            settle(
                model,
                step_of(model, step, dtype=dtype),
                series,
                is_dtype_given=step.dtype is not None,
                is_seq_len_given=step.seq is not None,
                timeout_s=timeout_s or 600.0,
            )
        )
    return works
