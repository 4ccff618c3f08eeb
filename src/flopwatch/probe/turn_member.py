"""One of several processes whose steps are timed in turn: it builds its step, warms it up, and waits for its turns.

Each has a process of its own because what ran before in a process changes how memory is handed out, and with that the
time of a step. Questions come on standard input, answers go to standard output, one JSON document a line.
"""

from __future__ import annotations

import gc
import importlib
import math
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO

import msgspec

from flopwatch.errors import ProbeError
from flopwatch.probe.failures import one_line


def live(questions: BinaryIO, answers: BinaryIO) -> None:
    """Say when torch is there; answer a line of arguments when the step is warm, then empty lines with its time."""

    def answer(row: dict[str, Any]) -> None:
        answers.write(msgspec.json.encode({**row, "cpu_s": time.process_time()}) + b"\n")
        answers.flush()

    try:
        import flopwatch.probe.jobs_step  # noqa: F401 - the slow part of a start, which all do at once

        answer({})
        turn, ready = _made(msgspec.json.decode(questions.readline()))
        answer(ready)
        for _ in questions:
            answer({"step_s": turn()})
            gc.collect()
    except BaseException as error:  # noqa: BLE001 - whatever it is, the other side has to know
        traceback.print_exc()
        answer({"error": one_line(error), "type": type(error).__name__})


def _made(arguments: dict[str, Any]) -> tuple[Callable[[], float], dict[str, Any]]:
    """A function that takes one turn, and what is said when it can: after the same warm-up as of a step timed alone."""
    sys.path[:0] = arguments["import_from"]
    import torch

    from flopwatch.probe.jobs_step import started
    from flopwatch.probe.sampling import N_STEPS_BEFORE, SamplePlan, time_steps, warm_up

    for name in arguments["imports"]:
        importlib.import_module(name)
    torch.set_num_threads(arguments["n_threads"])
    step, settle = started(arguments["step"])
    gc.collect()
    gc.freeze()
    gc.disable()
    plan = SamplePlan(**arguments["step"].get("plan", {}))
    warmup_s = list(warm_up(step, plan, clock=time.perf_counter, settle=settle, n_done=N_STEPS_BEFORE))
    one_s = min(warmup_s) if warmup_s else 0.0
    n_steps = math.ceil(arguments["turn_s"] / one_s) if one_s > 0 else 1

    def turn() -> float:
        if n_steps > 1:
            step()  # brings back to the caches what the others have pushed out
        took_s = time_steps(step, n_steps, clock=time.perf_counter, settle=settle)
        if took_s <= 0:
            raise ProbeError(f"{n_steps} steps took {took_s:g} s", hint="the clock went backwards or stood still")
        return took_s / n_steps

    return turn, {"n_steps": n_steps, "n_warmup": N_STEPS_BEFORE + len(warmup_s)}


def main() -> None:
    """Serve whoever started it: `python -m flopwatch.probe.turn_member`."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a user's code prints is no answer
    live(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
