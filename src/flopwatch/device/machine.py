"""Machine: the device that work would run on here, and the processor beside it, as frozen data."""

from __future__ import annotations

from typing import Literal

import msgspec

from flopwatch.device.cpu import Cpu
from flopwatch.device.device import Device

AcceleratorKind = Literal["cuda", "rocm", "xpu", "mps"]
MachineKind = Literal["cpu", "cuda", "rocm", "xpu", "mps"]


class Accelerator(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU or its like as the framework and its driver report it. Unknown is None."""

    kind: AcceleratorKind
    index: int
    name: str
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None
    sm_count: int | None = None
    capability: str | None = None
    driver: str | None = None
    is_mig: bool = False
    clock_hz: float | None = None
    max_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    power_limit_w: float | None = None
    default_power_limit_w: float | None = None
    throttle_reasons: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    """What could not be asked, each with its reason."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The device that work runs on here, with its row of the catalogue, or why it has none."""

    kind: MachineKind
    name: str
    cpu: Cpu
    accelerator: Accelerator | None = None
    device: Device | None = None
    why_no_device: str | None = None

    @property
    def torch_device(self) -> str:
        """The device as torch writes it: `cpu`, `cuda:0` (ROCm too), `xpu:0`, `mps`."""
        if self.accelerator is None:
            return "cpu"
        if self.accelerator.kind == "mps":
            return "mps"
        return f"{'cuda' if self.accelerator.kind == 'rocm' else self.accelerator.kind}:{self.accelerator.index}"

    @property
    def memory_total_bytes(self) -> int | None:
        """Memory of the device, or what this process may use of the host's."""
        return self.cpu.memory_total_bytes if self.accelerator is None else self.accelerator.memory_total_bytes

    @property
    def memory_free_bytes(self) -> int | None:
        """Memory that can be allocated now."""
        return self.cpu.memory_free_bytes if self.accelerator is None else self.accelerator.memory_free_bytes
