"""Meter: tokens/s, MFU, HFU and goodput of a training loop from the host's clock alone; it never waits for a device."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Final

from flopwatch.errors import InputError
from flopwatch.fields import is_whole
from flopwatch.measure.meter_cost import StepCost
from flopwatch.measure.meter_line import format_line
from flopwatch.measure.meter_peak import MeterPeak
from flopwatch.measure.meter_ranks import Ranks, RankTotals, scalars, totals_of_row
from flopwatch.measure.meter_work import Work, count_work
from flopwatch.units import format_percent, format_rate, format_seconds

Row = tuple[float | None, ...]
Exchange = Callable[[Row], Sequence[Row] | None]
"""Own row -> the rows of all ranks, in their order; None where there is no process group."""
Snapshot = tuple[int, float, int, float, float]
"""Counted so far: steps, their seconds, tokens, model FLOPs, hardware FLOPs."""

_BEGIN: Final[Snapshot] = (0, 0.0, 0, 0.0, 0.0)
_N_STEADY: Final = 2
_MOST_WARMUP: Final = 30
_FASTER_FRACTION: Final = 0.20  # a step that is so much faster than all before it: warm-up was not over
_CAUSES: Final = (
    "usual causes: tokens of all ranks given to each (a rank gives its own), ranks of one replica not given as"
    " ranks_per_replica, another dtype or device than the peak is for, n_devices, a loop so short that the host ran"
    " ahead of the device, frozen weights or another model than was counted"
)
_BACKWARDS: Final = "the clock went backwards: a step or a pause was not counted"


class MeterWarning(UserWarning):
    """A figure of a meter that should not be trusted as it stands; each kind is told once."""


class Meter:
    """The speed of a training loop: `add` for each micro-batch, `step` when the weights were updated.

    Time is what passes on the host between two steps. Rates are those of the last `window_steps` steps. Warm-up
    (`warmup_steps`, or until two steps in a row are not much faster than all before them) and `pause`s are no part of
    them, and show in the goodput: the time of counted steps over all time since the meter was made, or `start`ed.

    `step` and `add` take some microseconds, do not wait for the device and never talk to other ranks: with more than
    one rank their figures are this rank's. `gather` and `summary` ask all ranks, so every rank must call them.
    """

    def __init__(
        self,
        *,
        cost: StepCost,
        peak: MeterPeak,
        ranks: Ranks,
        window_steps: int = 20,
        warmup_steps: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
        exchange: Exchange | None = None,
    ) -> None:
        if not is_whole(window_steps, least=1) or not (warmup_steps is None or is_whole(warmup_steps, least=0)):
            raise InputError(
                f"window_steps={window_steps!r}, warmup_steps={warmup_steps!r} are no numbers of steps",
                hint="a window has at least one step, a warm-up none or more (None: until steady)",
            )
        if not callable(clock):
            raise InputError(f"clock={clock!r} cannot be called", hint="give a function that tells seconds")
        self.cost = cost
        self.peak = peak
        self.ranks = ranks
        self.n_steps = 0
        self.notes: list[str] = []
        self._warmup_steps = warmup_steps
        self._clock = clock
        self._exchange = exchange
        self._open_pause: str | None = None
        self._noted: set[str] = set()
        self._is_reason_told = False
        self._window: deque[Snapshot] = deque(maxlen=window_steps + 1)
        self.start()

    def start(self) -> None:
        """Begin anew: the first step starts now, and everything seen so far is forgotten."""
        self.n_steps = self._n_warmup = self._n_counted = 0
        self._counted_s = self._warmup_s = 0.0
        self._paused_s: dict[str, float] = {}
        self._all_paused_s = 0.0
        self._n_tokens = 0
        self._model_flops = self._hardware_flops = 0.0
        self._pending: Work | None = None
        self._n_steady = 0
        self._fastest_s_per_token = inf
        self._is_warm = self._warmup_steps == 0
        self._window.clear()
        self._window.append(_BEGIN)
        self._latest: dict[str, float] = {}
        self._last_s: float | None = None
        self._mark = self._pause_began_s = self._clock()  # an open pause goes on, and is one from here

    def add(
        self,
        *,
        tokens: int | None = None,
        sequences: int | None = None,
        lengths: Iterable[int] | None = None,
        padded_to: int | None = None,
    ) -> None:
        """Note the work of a micro-batch of this rank.

        `tokens` in sequences of `seq_len`; or so many `sequences` of `seq_len`; or both, for sequences of another
        length, all alike; or the `lengths` of the sequences (of the documents, where attention keeps packed ones
        apart). `padded_to` is the length that rows of these `lengths` were padded to: work for HFU, not for MFU.
        Within a `pause` nothing is noted, and a warning says so.
        Raises InputError for what cannot be counted without asking the device, or without knowing a length.
        """
        work = count_work(self.cost, tokens=tokens, sequences=sequences, lengths=lengths, padded_to=padded_to)
        if self._open_pause is not None:
            self._note("added", f"work was added within pause({self._open_pause!r}): it was not counted")
        elif self._pending is None:
            self._pending = work
        else:
            n, model, hardware = self._pending
            self._pending = (n + work[0], model + work[1], hardware + work[2])

    def step(
        self,
        *,
        tokens: int | None = None,
        sequences: int | None = None,
        lengths: Iterable[int] | None = None,
        padded_to: int | None = None,
    ) -> dict[str, float]:
        """End an optimizer step; its work is what was `add`ed and what is given here. The window's figures.

        A plain dict of `perf/...` scalars of this rank for any logger, empty while warming up.
        """
        now = self._clock()
        if self._open_pause is not None:  # what was added before it is of the step that goes on after it
            self._note("paused", f"a step ended within pause({self._open_pause!r}): it was not counted")
            return {}
        if self._pending is None or any(given is not None for given in (tokens, sequences, lengths, padded_to)):
            self.add(tokens=tokens, sequences=sequences, lengths=lengths, padded_to=padded_to)
        work, self._pending = self._pending or (0, 0.0, 0.0), None
        step_s = now - self._mark
        self._mark = now
        self._last_s = step_s
        self.n_steps += 1
        if not step_s >= 0:  # NaN too
            self._note("backwards", _BACKWARDS)
        elif not self._is_warm:
            self._warm_up(step_s, work[0])
        else:
            if step_s == 0:
                self._note("coarse", "the clock stood still during a step: its ticks are longer than a step")
            self._count(step_s, work)
            self._latest = scalars((self._span(self._window[0]),), self.ranks)
            self._check_utilization(self._latest)
        return self._latest.copy()

    @contextlib.contextmanager
    def pause(self, name: str = "pause") -> Iterator[None]:
        """Keep what happens within (evaluation, a checkpoint) out of the rates; pauses within it belong to it."""
        _check_name(name)
        if self._open_pause is not None:
            yield
            return
        self._pause_began_s = self._clock()
        self._open_pause = name
        try:
            yield
        finally:
            self._open_pause = None
            paused_s = self._clock() - self._pause_began_s
            self._mark += paused_s
            self._add_pause(name, paused_s)

    def skip(self, name: str = "pause") -> None:
        """Count all the time since the last step, or the last pause after it, as a pause that ends now.

        For callbacks that are only called after an evaluation or a checkpoint. Raises InputError in the middle of a
        step, whose work would lose its time.
        """
        _check_name(name)
        if self._pending is not None:
            raise InputError(f"skip({name!r}) in the middle of a step", hint="use pause() around what is no training")
        if self._open_pause is None:
            now = self._clock()
            paused_s, self._mark = now - self._mark, now
            self._add_pause(name, paused_s)

    def metrics(self) -> dict[str, float]:
        """The figures of the window as the last `step` gave them; empty while warming up."""
        return self._latest.copy()

    def gather(self) -> dict[str, float]:
        """The window's figures over all ranks: tokens summed, the slowest step. Every rank must call it.

        Without a process group it gives this rank's figures, like `metrics`.
        """
        return self._over_ranks(self._span(self._window[0]))

    def summary(self) -> dict[str, float]:
        """The figures of all counted steps over all ranks, and where the time went. Every rank must call it.

        `perf/n_steps`, `perf/n_warmup_steps`, `perf/warmup_s` and `perf/paused_s` (and that of each pause by name) are
        this rank's. Without a process group all figures are.
        """
        found = self._over_ranks(self._span(_BEGIN))
        found.setdefault("perf/goodput", 0.0)
        found["perf/n_steps"] = float(self.n_steps)
        found["perf/n_warmup_steps"] = float(self._n_warmup)
        found["perf/warmup_s"] = self._warmup_s
        found["perf/paused_s"] = self._all_paused_s
        return found | {f"perf/paused_s/{name}": seconds for name, seconds in self._paused_s.items()}

    @property
    def is_warm(self) -> bool:
        """Whether the warm-up is over, so that steps are counted."""
        return self._is_warm

    @property
    def has_work(self) -> bool:
        """Whether something was `add`ed since the last step."""
        return self._pending is not None

    @property
    def is_paused(self) -> bool:
        """Whether a pause is open."""
        return self._open_pause is not None

    @property
    def why_no_mfu(self) -> str | None:
        """Why there is no `perf/mfu`, with the way out; None where there is one once the loop is warm."""
        if self.cost.reason is not None:
            return self.cost.reason
        return self.peak.reason if self.peak.flops_per_s is None else None

    def line(self) -> str:
        """The window in one line, as nanoGPT prints it; the reason for a missing MFU stands in the first one."""
        if not self._latest and self._is_warm and self.n_steps > self._n_warmup:
            return f"step {self.n_steps}: n/a (the clock stands still)"
        if not self._latest:
            took = "" if self._last_s is None else f" {format_seconds(max(self._last_s, 0.0))},"
            return f"step {self.n_steps}:{took} warming up"
        reason = None if self._is_reason_told else self.why_no_mfu
        self._is_reason_told = True
        n_devices = self.ranks.world_size * self.ranks.devices_per_rank
        return f"step {self.n_steps}: {format_line(self._latest, self.peak, n_devices=n_devices, reason=reason)}"

    def _warm_up(self, step_s: float, n_tokens: int) -> None:
        self._n_warmup += 1
        self._warmup_s += step_s
        if self._warmup_steps is not None:
            self._is_warm = self._n_warmup >= self._warmup_steps
            return
        if n_tokens:
            s_per_token = step_s / n_tokens
            is_record = s_per_token < self._fastest_s_per_token * (1 - _FASTER_FRACTION)
            self._n_steady = 0 if is_record else self._n_steady + 1
            self._fastest_s_per_token = min(self._fastest_s_per_token, s_per_token)
        self._is_warm = self._n_steady >= _N_STEADY or self._n_warmup >= _MOST_WARMUP
        if self._n_warmup >= _MOST_WARMUP and self._n_steady < _N_STEADY:
            what = "went on getting faster" if self._fastest_s_per_token < inf else "had no tokens"
            self._note("unsteady", f"{_MOST_WARMUP} warm-up steps {what}; steps are counted from here")

    def _count(self, step_s: float, work: Work) -> None:
        tokens, model_flops, hardware_flops = work
        self._n_counted += 1
        self._counted_s += step_s
        self._n_tokens += tokens
        self._model_flops += model_flops
        self._hardware_flops += hardware_flops
        self._window.append((self._n_counted, self._counted_s, self._n_tokens, self._model_flops, self._hardware_flops))

    def _span(self, begin: Snapshot) -> RankTotals:
        """What this rank did since `begin`."""
        n_steps, counted_s, n_tokens, model_flops, hardware_flops = begin
        is_known = self.cost.reason is None
        return RankTotals(
            n_steps=self._n_counted - n_steps,
            active_s=self._counted_s - counted_s,
            n_tokens=self._n_tokens - n_tokens,
            model_flops=self._model_flops - model_flops if is_known else None,
            hardware_flops=self._hardware_flops - hardware_flops if is_known else None,
            peak_flops_per_s=self.peak.flops_per_s,
            counted_s=self._counted_s,
            warmup_s=self._warmup_s,
            paused_s=self._all_paused_s,
        )

    def _over_ranks(self, own: RankTotals) -> dict[str, float]:
        rows = None if self._exchange is None else self._exchange(own.to_row())
        if rows is None:
            if self.ranks.world_size > 1:
                text = f"WORLD_SIZE is {self.ranks.world_size} and there is no process group: figures are this rank's"
                self._note("no group", text)
            found = scalars((own,), self.ranks)
        else:
            if len(rows) != self.ranks.world_size:  # a group made after the meter
                self.ranks = self.ranks.of_world(len(rows))
            found = scalars([totals_of_row(row) for row in rows], self.ranks)
        self._check_utilization(found)
        return found

    def _add_pause(self, name: str, paused_s: float) -> None:
        if not paused_s >= 0:
            self._note("backwards", _BACKWARDS)
            return
        self._all_paused_s += paused_s
        self._paused_s[name] = self._paused_s.get(name, 0.0) + paused_s

    def _check_utilization(self, found: Mapping[str, float]) -> None:
        for name in ("mfu", "hfu"):
            if found.get(f"perf/{name}", 0.0) > 1 and self.peak.flops_per_s is not None:
                share = f"{name.upper()} {format_percent(found[f'perf/{name}'])}"
                of_what = f"{format_rate(self.peak.flops_per_s)} ({self.peak.source})"
                self._note("above", f"{share} of {of_what} is above 100 %: {_CAUSES}")
                return

    def _note(self, kind: str, text: str) -> None:
        """Tell something once, as a warning and in `notes`."""
        if kind not in self._noted:
            self._noted.add(kind)
            self.notes.append(text)
            warnings.warn(text, MeterWarning, stacklevel=4)


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise InputError(f"{name!r} is no name of a pause", hint="give a text, such as 'eval'")
