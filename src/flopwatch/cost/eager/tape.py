"""Tape: what one step allocates and releases, in order, and what follows from it: the peak, its parts, its curve."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Final

from flopwatch.tally import Tally

PARTS: Final = (
    "weights",
    "gradients",
    "optimizer",
    "activations",
    "logits",
    "temporary",
    "reserved",
    "context",
)
"""The parts of a peak. `reserved` is what an allocator holds beyond tensors, `context` what a device's driver takes."""


@dataclasses.dataclass(slots=True)
class Block:
    """One allocation: its size, what it is for, and who made it. `part` may become known only later."""

    n_bytes: int
    part: str
    op: str
    module: str
    phase: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Peak:
    """The moment at which most bytes are alive."""

    n_bytes: int
    parts: Tally
    event: int
    op: str
    module: str
    phase: str
    largest: tuple[Block, ...]


class Tape:
    """Allocations and releases of blocks in the order in which they happen.

    `events` holds block numbers: `n` is the allocation of block n, `~n` its release.
    """

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.events: list[int] = []
        self.op = ""
        self.module = ""
        self.phase = ""
        self._is_open = True

    def allocate(self, n_bytes: int, part: str = "temporary") -> int:
        """The number of a new block, made by the operator, module and phase that the tape stands at."""
        number = len(self.blocks)
        self.blocks.append(Block(n_bytes, part, self.op, self.module, self.phase))
        self.events.append(number)
        return number

    def release(self, number: int) -> None:
        """Note that block `number` is free; after `close` nothing is noted any more."""
        if self._is_open:
            self.events.append(~number)

    def close(self) -> None:
        """Stop noting: what is released from now on belongs to the end of the program."""
        self._is_open = False

    def curve(self) -> Iterator[int]:
        """Bytes alive after each event."""
        alive = 0
        for event in self.events:
            alive += self.blocks[event].n_bytes if event >= 0 else -self.blocks[~event].n_bytes
            yield alive

    def peak(self, *, n_largest: int = 8) -> Peak:
        """The first moment at which most bytes are alive, with the parts and the largest blocks alive then."""
        peak_bytes, at = 0, -1
        for index, alive in enumerate(self.curve()):
            if alive > peak_bytes:
                peak_bytes, at = alive, index
        alive_then = self.alive_after(at)
        parts = dict.fromkeys(PARTS, 0)
        for block in alive_then:
            parts[block.part] += block.n_bytes
        last = self.blocks[self.events[at]] if at >= 0 else Block(0, "temporary", "", "", "")
        largest = sorted(alive_then, key=lambda block: -block.n_bytes)[:n_largest]
        return Peak(
            n_bytes=peak_bytes,
            parts=Tally(parts),
            event=at,
            op=last.op,
            module=last.module,
            phase=last.phase,
            largest=tuple(largest),
        )

    def alive_after(self, event: int) -> list[Block]:
        """The blocks alive after event number `event`."""
        alive: dict[int, None] = {}
        for number in self.events[: event + 1]:
            if number >= 0:
                alive[number] = None
            else:
                del alive[~number]
        return [self.blocks[number] for number in alive]
