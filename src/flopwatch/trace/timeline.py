"""The memory timeline of a trace: its births and deaths of storages as a Tape, with parts, operators and modules."""

from __future__ import annotations

from typing import Final

from flopwatch.cost.eager.tape import Tape
from flopwatch.errors import InputError
from flopwatch.trace.result import OpCall, Trace
from flopwatch.trace.storages import StorageLife

_PARTS: Final = {
    "parameter": "weights",
    "buffer": "weights",
    "gradient": "gradients",
    "optimizer": "optimizer",
    "input": "activations",
}
_LOSS_WORDS: Final = ("log_softmax", "nll_loss", "cross_entropy")


def tape_of(trace: Trace) -> Tape:
    """Every allocation and release of a traced step, what was there before it first.

    A storage that nothing marks is an activation when it was made in a forward pass and outlives it, else temporary;
    those of the loss, and the matmul's result that the loss reads, are logits.
    """
    if trace.memory is None:
        raise InputError("this trace has no memory events", hint="trace with memory_events=True")
    calls = list(trace.operators())
    tape = Tape()
    lives = trace.memory.lives
    logits = _logits(lives, calls)
    numbers: dict[int, int] = {}
    for index, life in enumerate(lives):
        if life.born < 0:
            numbers[index] = _add(tape, life, None, part=_PARTS.get(life.category or "", "activations"))
    for event in trace.memory.events:
        index = abs(event) - 1
        life = lives[index]
        if event < 0:
            tape.release(numbers[index])
        elif life.born >= 0:
            call = calls[life.born] if life.born < len(calls) else None
            part = "logits" if index in logits else _part(life, call, calls)
            numbers[index] = _add(tape, life, call, part=part)
    tape.close()
    return tape


def _add(tape: Tape, life: StorageLife, call: OpCall | None, *, part: str) -> int:
    tape.op, tape.module, tape.phase = ("", "", "before") if call is None else (call.op, call.module, call.phase)
    return tape.allocate(life.n_bytes, part)


def _part(life: StorageLife, call: OpCall | None, calls: list[OpCall]) -> str:
    if life.category is not None:
        return _PARTS[life.category]
    if call is None or call.phase not in {"forward", "recompute"}:
        return "temporary"
    died = life.died if life.died is not None else len(calls) - 1
    return "activations" if calls[min(died + 1, len(calls) - 1)].phase == "backward" else "temporary"


def _logits(lives: list[StorageLife], calls: list[OpCall]) -> set[int]:
    """Storages of the loss, and of the matmul that the loss reads: the last one before it."""
    found: set[int] = set()
    last_matmul: int | None = None
    for index, life in enumerate(lives):
        call = calls[life.born] if 0 <= life.born < len(calls) else None
        if call is None:
            continue
        if any(word in call.op for word in _LOSS_WORDS):
            found.add(index)
            if last_matmul is not None and call.phase == "forward":
                found.add(last_matmul)
                last_matmul = None
        elif call.phase == "forward" and call.flops:
            last_matmul = index
    return found
