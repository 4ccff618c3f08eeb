"""What a child can do: job name -> the function that does it, imported in the child only."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from flopwatch.errors import InputError

Job = Callable[[dict[str, Any]], dict[str, Any] | Iterator[dict[str, Any]]]
"""Arguments -> result, both plain data. A generator reports each row as it comes; its last row is the result."""

JOBS: Final = {
    "fit_step": "flopwatch.probe.jobs_step:fit_step",
    "bench_step": "flopwatch.probe.jobs_step:bench_step",
    "time_in_turn": "flopwatch.probe.jobs_turns:time_in_turn",
    "profile_step": "flopwatch.probe.jobs_gap:profile_step",
    "time_matmuls": "flopwatch.probe.jobs_gap:time_matmuls",
    "detect": "flopwatch.probe.jobs_device:detect",
    "device_memory": "flopwatch.probe.jobs_device:device_memory",
    "matmul_peak": "flopwatch.probe.jobs_peak:matmul_peak",
    "matmul_sweep": "flopwatch.probe.jobs_peak:sweep",
    "bandwidth": "flopwatch.probe.jobs_peak:bandwidth",
    "allocate": "flopwatch.probe.jobs_selftest:allocate",
    "clocks": "flopwatch.probe.jobs_selftest:clocks",
}


def load_job(name: str) -> Job:
    """The function behind a job's name, or behind `package.module:function`; raises InputError for neither."""
    target = JOBS.get(name, name)
    module_name, colon, function = target.partition(":")
    if not colon:
        raise InputError(f"no job is called {name!r}", hint=f"known are {', '.join(sorted(JOBS))}")
    job: Job = importlib.import_module(module_name).__dict__[function]
    return job
