"""`flopwatch bench`: how fast a step runs here."""

from __future__ import annotations

from flopwatch.api.bench_series import BenchSeries
from flopwatch.api.own import check_own_convention
from flopwatch.cli.bench_options import BenchOptions
from flopwatch.cli.notes import notes_of
from flopwatch.cli.options import ModelOptions, PlotOptions, RunOptions, StepOptions
from flopwatch.cli.output import emit
from flopwatch.cli.request import request
from flopwatch.cli.run_models import models_of, settled, step_of
from flopwatch.cli.session import check_store, session
from flopwatch.cost.convention import DEFAULT, find_convention
from flopwatch.device.detect import environment
from flopwatch.measure.dtype import check_dtype, default_dtype
from flopwatch.measure.series import ProbeSeries
from flopwatch.record import make_record


def bench(
    model: str,
    *models: str,
    convention: str = DEFAULT,
    what: BenchOptions | None = None,
    step: StepOptions | None = None,
    model_options: ModelOptions | None = None,
    run: RunOptions | None = None,
    output: PlotOptions | None = None,
) -> None:
    """How fast a step runs here: step time, tokens/s, FLOP/s, MFU and HFU, peak memory.

    The step runs in a process of its own: warm-up until it is steady, then at least five samples. MFU and HFU stand
    against the datasheet's peak and the one measured here.

    Parameters
    ----------
    model
        A preset (gpt-small, llama-3.1-8b), a Hugging Face config.json or its folder, a spec file, hf:ORG/NAME, or
        package.module:factory, which runs your code (docs/models.md).
    models
        More models.
    convention
        How FLOPs are counted (docs/conventions.md).
    """
    step, run, output = step or StepOptions(), run or RunOptions(), output or PlotOptions()
    what = what or BenchOptions()
    what.check(step)
    rule = find_convention(convention)
    specs = models_of((model, *models), model_options, step)
    for spec in specs:
        check_own_convention(spec, rule)
    check_store(run)
    machine = ProbeSeries().machine(step.device)
    dtype = default_dtype(machine)
    check_dtype(step.dtype or dtype, machine)
    for spec in specs:
        what.check_work(spec, step_of(spec, step, dtype=dtype), kind=machine.kind)
    asked = request(
        models=[spec.to_dict() for spec in specs],
        workload=step_of(specs[0], step, dtype=dtype).to_dict(),
        batch=what.batch,
        limit_bytes=what.limit,
        global_batch=what.global_batch,
        explore=what.explore,
        why=what.why,
        compile=what.compile,
        convention=convention,
        device=step.device,
    )
    where = environment(machine)
    with session("bench", asked=asked, environment=where, options=run, output=output) as made:
        benches = BenchSeries(
            series=made.series,
            machine=machine,
            convention=rule,
            timeout_s=run.timeout or 1800.0,
            store=made.store,
        )
        works = settled(specs, step, made.series, output, dtype=dtype, timeout_s=run.timeout)
        results = [
            what.measure(spec, work, benches, made.store, timeout_s=run.timeout)
            for spec, work in zip(specs, works, strict=True)
        ]
        record = made.finish(
            make_record("bench", environment=where, request=asked, results=results, warnings=notes_of(results))
        )
    emit(record, output)
