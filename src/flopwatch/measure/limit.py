"""How much a probe may allocate: what the user says, or what is free now less a headroom."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from flopwatch.device.device import Device
from flopwatch.device.machine import Machine, MachineKind
from flopwatch.errors import InputError, MissingError
from flopwatch.fields import is_whole
from flopwatch.measure.series import ProbeSeries, answer_of
from flopwatch.probe.protocol import ProbeRequest
from flopwatch.units import format_bytes, parse_bytes

# What others take meanwhile, and on a CPU the idle process itself, its libraries and the page cache it works from.
_HEADROOM_FRACTION: Final = 0.10
# The context and the kernels are in free memory already when a device is asked, not when its datasheet is.
_DEVICE_HEADROOM_FRACTION: Final = 0.03
_CARD_HEADROOM_FRACTION: Final = 0.06
_LEAST_HEADROOM_BYTES: Final = 512 << 20


class Headroom(msgspec.Struct, frozen=True, kw_only=True):
    """Memory that is to stay free: an amount, or a share of what there is."""

    amount: int | float

    def of(self, bytes_there: int) -> int:
        """Bytes to keep free of so many."""
        return int(self.amount * bytes_there) if isinstance(self.amount, float) else self.amount


def parse_headroom(text: str) -> Headroom:
    """`5%` or `512MiB` as a Headroom; InputError, which names the option, for anything else and for all of it."""
    if not text.strip().endswith("%"):
        try:
            return Headroom(amount=parse_bytes(text))
        except InputError as error:
            raise InputError(f"--headroom: {error.message}", hint="write it like 5% or 512MiB") from error
    try:
        percent = float(text.strip()[:-1])
    except ValueError as error:
        raise InputError(f"--headroom: {text!r} is no share", hint="write it like 5%") from error
    if not 0 <= percent < 100:
        raise InputError(f"--headroom {text} leaves nothing", hint="give 0% to 99%, or an amount like 512MiB")
    return Headroom(amount=percent / 100)


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that the work may allocate, and where the figure comes from, as it is printed."""

    limit_bytes: int
    source: str


def given_limit(limit_bytes: int, headroom: Headroom | None = None) -> Limit:
    """A limit that the user has set, less the headroom; raises InputError where that leaves nothing."""
    if not is_whole(limit_bytes, least=1):
        text = f"a limit of {limit_bytes!r} bytes leaves nothing, or is no whole number"
        raise InputError(text, hint="write it like --limit 2GiB, limit_bytes=2 << 30")
    kept_bytes = 0 if headroom is None else headroom.of(limit_bytes)
    if kept_bytes == 0:
        return Limit(limit_bytes=limit_bytes, source="given")
    allowed, kept = format_bytes(limit_bytes), format_bytes(kept_bytes)
    if kept_bytes >= limit_bytes:
        raise InputError(f"a headroom of {kept} leaves nothing of {allowed}", hint="make --headroom smaller")
    return Limit(limit_bytes=limit_bytes - kept_bytes, source=f"given ({allowed}) less a headroom of {kept}")


def free_limit(series: ProbeSeries, machine: Machine, headroom: Headroom | None = None) -> Limit:
    """What is free on the machine's device now, less a headroom that the source names."""

    def find() -> dict[str, Any]:
        return {"free_bytes": _free_bytes(series, machine)}

    free_bytes = int(series.decide(f"free memory of {machine.torch_device}", find)["free_bytes"])
    return less_headroom(machine.kind, free_bytes, headroom)


def less_headroom(kind: MachineKind, free_bytes: int, headroom: Headroom | None = None) -> Limit:
    """What is free less a headroom, the usual one when left out; raises MissingError when that leaves nothing."""
    fraction = _HEADROOM_FRACTION if kind == "cpu" else _DEVICE_HEADROOM_FRACTION
    usual_bytes = max(int(free_bytes * fraction), _LEAST_HEADROOM_BYTES)
    headroom_bytes = usual_bytes if headroom is None else headroom.of(free_bytes)
    if headroom_bytes >= free_bytes:
        raise MissingError(f"only {format_bytes(free_bytes)} are free", hint="free some memory, or give --limit")
    source = f"free now ({format_bytes(free_bytes)}) less a headroom of {format_bytes(headroom_bytes)}"
    return Limit(limit_bytes=free_bytes - headroom_bytes, source=source)


def card_limit(card: Device, headroom: Headroom | None = None) -> Limit:
    """A card's memory less a headroom for its context and kernels, for a card that is not here."""
    if card.memory_bytes is None:
        raise InputError(f"the memory of {card.label} is not known", hint="give --limit")
    usual = Headroom(amount=_CARD_HEADROOM_FRACTION)
    headroom_bytes = (headroom or usual).of(card.memory_bytes)
    memory, kept = format_bytes(card.memory_bytes), format_bytes(headroom_bytes)
    if headroom_bytes >= card.memory_bytes:
        raise InputError(f"a headroom of {kept} leaves nothing of {memory}", hint="make --headroom smaller")
    source = f"memory of {card.label} ({memory}) less {kept} for its context"
    return Limit(limit_bytes=card.memory_bytes - headroom_bytes, source=source)


def _free_bytes(series: ProbeSeries, machine: Machine) -> int:
    """Free memory as a child would find it: on an accelerator the child's own context is in the way."""
    if machine.kind == "cpu":
        return machine.cpu.memory_free_bytes
    device = machine.torch_device
    request = ProbeRequest(job="device_memory", arguments={"device": device}, device=device, timeout_s=120.0)
    return int(answer_of(series.ask(request), what="asking for free memory")["free_bytes"])
