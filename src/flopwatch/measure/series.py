"""A series of probes: each is asked once, kept the moment it ends, and found again when the series is continued."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from flopwatch import errors
from flopwatch.device.machine import Machine
from flopwatch.errors import FlopwatchError, ProbeError
from flopwatch.measure.journal import Journal, MemoryJournal, content_key
from flopwatch.probe.protocol import ProbeOutcome, ProbeRequest
from flopwatch.probe.runner import OnProgress, run_probe
from flopwatch.store import ItemKind


class RunProbe(Protocol):
    """Puts a request to the hardware: `probe.runner.run_probe`, or a fake of it in a test."""

    def __call__(self, request: ProbeRequest, *, on_progress: OnProgress | None = None) -> ProbeOutcome:
        """How the probe ended; never raises for what became of the child."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a long measurement stands: what is being done, and what is done and left of it as far as that is known."""

    label: str
    done_fraction: float | None = None
    left_s: float | None = None


Watch = Callable[[Progress], None]


def watch_nothing(_progress: Progress) -> None:
    """The watcher of those who do not want to know."""


class ProbeSeries:
    """Asks probes one after another. What the journal already holds is not asked again."""

    def __init__(
        self, *, run: RunProbe = run_probe, journal: Journal | None = None, watch: Watch = watch_nothing
    ) -> None:
        self._run = run
        self.journal = journal if journal is not None else MemoryJournal()
        self.watch = watch
        self.n_run = 0
        self.spent_s = 0.0  # by all probes of the series, those that the journal held too

    def ask(
        self, request: ProbeRequest, *, kind: ItemKind = "probe", on_progress: OnProgress | None = None
    ) -> ProbeOutcome:
        """The outcome of the request, from the journal when it was asked before."""
        key = f"{request.job} {content_key(msgspec.to_builtins(request))}"
        kept = self.journal.get(kind, key)
        if kept is not None:
            found = msgspec.convert(kept["outcome"], ProbeOutcome)
            self.spent_s += found.wall_s
            return found
        outcome = self._run(request, on_progress=on_progress)
        self.n_run += 1
        self.spent_s += outcome.wall_s
        data = {"request": msgspec.to_builtins(request), "outcome": msgspec.to_builtins(outcome)}
        self.journal.put(kind, key, data)
        return outcome

    def decide(self, name: str, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `find` says, the first time: a continued series goes on with the same decision, not with today's."""
        kept = self.journal.get("decision", name)
        if kept is None:
            kept = find()
            self.journal.put("decision", name, kept)
        return kept

    def machine(self, device: str) -> Machine:
        """The machine seen through `device`, detected in a child: here torch stays out.

        Raises InputError for a device that is none, MissingError for one that is not here.
        """
        outcome = self._run(ProbeRequest(job="detect", arguments={"device": device}, timeout_s=120.0))
        return msgspec.convert(answer_of(outcome, what="looking at the device"), Machine)


def answer_of(outcome: ProbeOutcome, *, what: str) -> dict[str, Any]:
    """The result of a probe that had to answer; raises its error as the kind it was in the child, else ProbeError."""
    if outcome.result is not None and outcome.is_ok:
        return outcome.result
    kind = errors.__dict__.get(outcome.failure or "")
    if isinstance(kind, type) and issubclass(kind, FlopwatchError):
        raise kind(outcome.error or outcome.outcome)
    raise ProbeError(f"{what} failed: {outcome.outcome} ({outcome.error})", hint=_hint(outcome))


def _hint(outcome: ProbeOutcome) -> str:
    return {
        "timeout": "give it more time with --timeout",
        "oom": "use a smaller batch, or see `flopwatch fit`",
        "killed": "free some memory, or set a --limit below what the machine has",
    }.get(outcome.outcome, "run it in a script of your own to see the whole error")
