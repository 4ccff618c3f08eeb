"""The job that times several steps in turn, each in a process of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import torch

from flopwatch.errors import ProbeError
from flopwatch.probe.contention import OthersCpu
from flopwatch.probe.failures import classify_error
from flopwatch.probe.turns import TurnPlan, take_turns

_GRACE_S: Final = 5.0


def time_in_turn(arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row `{turn_s}` a round, the seconds of a step of each of `steps`; the last has `rounds`, `n_steps`, `n_warmup`.

    It also has `others_cores`, the cores that other processes kept busy meanwhile. All of the steps are in memory at
    once. Raises MemoryError when one runs out of it, ProbeError when one fails otherwise.
    """
    plan = TurnPlan(**arguments.get("turn_plan", {}))
    with contextlib.ExitStack() as running:
        members = [running.enter_context(_Member(step, arguments, turn_s=plan.turn_s)) for step in arguments["steps"]]
        for member in members:
            member.read()  # all have started
        ready = [member.ask(member.arguments) for member in members]  # one after the other: each warms up alone
        rounds = []
        others, began_s = OthersCpu(), sum(member.cpu_s for member in members)
        for row in take_turns([member.turn for member in members], plan, clock=time.perf_counter):
            rounds.append(row)
            yield {"turn_s": row}
        others_cores = others.n_cores(helpers_s=sum(member.cpu_s for member in members) - began_s)
    yield {
        "rounds": rounds,
        "n_steps": [one["n_steps"] for one in ready],
        "n_warmup": [one["n_warmup"] for one in ready],
        "others_cores": others_cores,
    }


class _Member:
    """One process with its step. In `with`: it is gone when the block ends."""

    cpu_s: float
    """CPU time that it had used when it answered last."""

    def __init__(self, step: dict[str, Any], arguments: dict[str, Any], *, turn_s: float) -> None:
        self.arguments = {
            "step": step,
            "import_from": arguments.get("import_from", []),
            "imports": arguments.get("imports", []),
            "n_threads": torch.get_num_threads(),
            "turn_s": turn_s,
        }

    def __enter__(self) -> _Member:
        command = [sys.executable, "-P", "-m", "flopwatch.probe.turn_member"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def turn(self) -> float:
        """The seconds of a step, in a turn taken now."""
        step_s: float = self.ask(None)["step_s"]
        return step_s

    def ask(self, question: dict[str, Any] | None) -> dict[str, Any]:
        """What it answers: to its arguments when its step is warm, to None when it has taken a turn."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # reading says that it is gone, and perhaps why
            self._process.stdin.write((b"" if question is None else msgspec.json.encode(question)) + b"\n")
            self._process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        """Its next answer; raises what it says that it failed of, and ProbeError when it is gone."""
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            raise ProbeError(f"a process that was timed in turn ended (exit code {self._process.wait()})")
        answer: dict[str, Any] = msgspec.json.decode(said)
        if "error" in answer:
            outcome, _ = classify_error(answer["type"], answer["error"])
            raise (MemoryError if outcome == "oom" else ProbeError)(answer["error"])
        self.cpu_s = answer["cpu_s"]
        return answer
