"""`flopwatch report`: how much work each model is, what fits, how fast it runs here, on one page. The main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flopwatch.api.count import resolve_spec
from flopwatch.api.report import report as report_models
from flopwatch.cli.notes import notes_of
from flopwatch.cli.options import ModelOptions, PlotOptions, RunOptions
from flopwatch.cli.output import check_writable, emit, note, write_file
from flopwatch.cli.records import find_done
from flopwatch.cli.report_options import ReportOptions
from flopwatch.cli.request import request
from flopwatch.cli.session import session
from flopwatch.device.detect import environment
from flopwatch.errors import InputError
from flopwatch.measure.series import ProbeSeries
from flopwatch.record import Record, make_record


def report(
    model: str,
    *models: str,
    html: Annotated[Path, Parameter(name="--html")] = Path("flopwatch-report.html"),
    fresh: Annotated[bool, Parameter(negative="")] = False,
    options: ReportOptions | None = None,
    model_options: ModelOptions | None = None,
    run: RunOptions | None = None,
    output: PlotOptions | None = None,
) -> None:
    """FLOPs, the batch that fits and the speed of each model, forward and training, on one HTML page: the main job.

    What was measured before is not measured again: a finished run of this machine that was asked the same is drawn.

    Parameters
    ----------
    model
        A preset (gpt-small, llama-3.1-8b), a Hugging Face config.json or its folder, a spec file, hf:ORG/NAME.
    models
        More models.
    html
        The page: one file that needs no other.
    fresh
        Measure anew, whatever is in the store.
    """
    options, run, output = options or ReportOptions(), run or RunOptions(), output or PlotOptions()
    if fresh and run.resume:
        raise InputError("--fresh and --resume exclude each other", hint="--resume goes on with what was measured")
    _check_files(html, output)
    changes = (model_options or ModelOptions()).changes()
    specs = [resolve_spec(name, changes) for name in dict.fromkeys((model, *models))]
    options.check(specs)
    machine = ProbeSeries().machine(options.device)
    step = options.workload(specs, machine)
    asked, where = request(**options.asked(specs, step)), environment(machine)
    done = None if fresh else find_done("report", asked=asked, environment=where, options=run)
    if done is not None:
        number, record = done
        note(f"drawn from run {number} of {record.created}, nothing was measured; --fresh measures anew", output)
    else:
        with session("report", asked=asked, environment=where, options=run, output=output) as made:
            wanted = options.request(specs, step, machine=machine, series=made.series, timeout_s=run.timeout or 600.0)
            results = report_models(wanted, series=made.series, machine=machine, store=made.store)
            benches = [bench for result in results for bench in result.benches]
            notes = notes_of(benches, is_named=True)
            record = made.finish(
                make_record("report", environment=where, request=asked, results=results, warnings=notes)
            )
    _show(record, html, output)


def _check_files(html: Path, output: PlotOptions) -> None:
    """Refuse before minutes of measuring what could not be written after them."""
    if html.is_dir():
        raise InputError(f"--html {html} is a folder", hint="name a file in it")
    if output.output is not None and output.output.suffix.lower() in {".html", ".htm"}:
        raise InputError(f"-o {output.output} would hold JSON", hint=f"use --html {output.output} for the page")
    check_writable(html, option="--html")
    if output.output is not None:
        check_writable(output.output)


def _show(record: Record, html: Path, output: PlotOptions) -> None:
    try:
        emit(record, output)
    finally:  # a reader that stops early (`| head`) loses no page
        from flopwatch.report.html import to_html

        write_file(html, to_html(record, lang=output.lang), option="--html")
        note(f"page written to {html}", output)
