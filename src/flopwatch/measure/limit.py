"""How much a probe may allocate: what the user says, or what is free now less a headroom."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from flopwatch.device.device import Device
from flopwatch.device.machine import Machine, MachineKind
from flopwatch.errors import InputError, MissingError
from flopwatch.measure.series import ProbeSeries, answer_of
from flopwatch.probe.protocol import ProbeRequest
from flopwatch.units import format_bytes

# What others take meanwhile, and on a CPU the idle process itself, its libraries and the page cache it works from.
_HEADROOM_FRACTION: Final = 0.10
# The context and the kernels are in free memory already when a device is asked, not when its datasheet is.
_DEVICE_HEADROOM_FRACTION: Final = 0.03
_CARD_HEADROOM_FRACTION: Final = 0.06
_LEAST_HEADROOM_BYTES: Final = 512 << 20


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that the work may allocate, and where the figure comes from, as it is printed."""

    limit_bytes: int
    source: str


def given_limit(limit_bytes: int) -> Limit:
    """A limit that the user has set; raises InputError for one below 1 byte."""
    if limit_bytes < 1:
        raise InputError(f"a limit of {limit_bytes} bytes leaves nothing", hint="write it like --limit 2GiB")
    return Limit(limit_bytes=limit_bytes, source="given")


def free_limit(series: ProbeSeries, machine: Machine) -> Limit:
    """What is free on the machine's device now, less a headroom that the source names."""

    def find() -> dict[str, Any]:
        return {"free_bytes": _free_bytes(series, machine)}

    free_bytes = int(series.decide(f"free memory of {machine.torch_device}", find)["free_bytes"])
    return less_headroom(machine.kind, free_bytes)


def less_headroom(kind: MachineKind, free_bytes: int) -> Limit:
    """What is free less a headroom; raises MissingError when that leaves nothing."""
    fraction = _HEADROOM_FRACTION if kind == "cpu" else _DEVICE_HEADROOM_FRACTION
    headroom_bytes = max(int(free_bytes * fraction), _LEAST_HEADROOM_BYTES)
    if headroom_bytes >= free_bytes:
        raise MissingError(f"only {format_bytes(free_bytes)} are free", hint="free some memory, or give --limit")
    source = f"free now ({format_bytes(free_bytes)}) less a headroom of {format_bytes(headroom_bytes)}"
    return Limit(limit_bytes=free_bytes - headroom_bytes, source=source)


def card_limit(card: Device) -> Limit:
    """A card's memory less what its context and kernels take, for a card that is not here."""
    if card.memory_bytes is None:
        raise InputError(f"the memory of {card.label} is not known", hint="give --limit")
    headroom_bytes = int(card.memory_bytes * _CARD_HEADROOM_FRACTION)
    memory, headroom = format_bytes(card.memory_bytes), format_bytes(headroom_bytes)
    source = f"memory of {card.label} ({memory}) less {headroom} for its context"
    return Limit(limit_bytes=card.memory_bytes - headroom_bytes, source=source)


def _free_bytes(series: ProbeSeries, machine: Machine) -> int:
    """Free memory as a child would find it: on an accelerator the child's own context is in the way."""
    if machine.kind == "cpu":
        return machine.cpu.memory_free_bytes
    device = machine.torch_device
    request = ProbeRequest(job="device_memory", arguments={"device": device}, device=device, timeout_s=120.0)
    return int(answer_of(series.ask(request), what="asking for free memory")["free_bytes"])
