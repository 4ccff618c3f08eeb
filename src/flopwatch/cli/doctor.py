"""`flopwatch doctor`: what is here, what will be n/a, and how to get it."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from flopwatch.api.doctor import doctor as look_around
from flopwatch.api.selftest import selftest as run_checks
from flopwatch.cli.options import OutputOptions, StoreOptions
from flopwatch.cli.output import emit, note
from flopwatch.cli.request import request
from flopwatch.device.detect import environment, torch_version
from flopwatch.errors import EXIT_FAILURE, EXIT_OK, MissingError
from flopwatch.measure.series import ProbeSeries
from flopwatch.probe.runner import run_probe
from flopwatch.record import CheckResult, make_record


def doctor(
    *,
    selftest: Annotated[bool, Parameter(negative="")] = False,
    device: str = "auto",
    store: StoreOptions | None = None,
    output: OutputOptions | None = None,
) -> int:
    """What this machine has, what will be n/a and why, and how to get it.

    Parameters
    ----------
    selftest
        Run the checks of docs/hardware.md on this device, about 20 s; exit code 1 if one fails.
    device
        auto, cpu, cuda, cuda:1, rocm, xpu or mps.
    """
    output, store = output or OutputOptions(), store or StoreOptions()
    machine = ProbeSeries().machine(device) if torch_version() is not None else None
    results: list[CheckResult] = []
    if not selftest:
        results += look_around(machine, store=store.store)
    elif machine is None:
        raise MissingError("torch is not installed", hint="the checks run on it: pip install torch")
    else:
        for result in run_checks(machine, run_probe):
            note(f"{result.name}: {result.outcome}", output)
            results.append(result)
    asked = request(selftest=selftest, device=device)
    emit(make_record("doctor", environment=environment(machine), request=asked, results=results), output)
    return EXIT_FAILURE if selftest and any(result.outcome == "failed" for result in results) else EXIT_OK
