"""Jobs that ask what a device is and has, in a process where torch may be imported and the device opened."""

from __future__ import annotations

from typing import Any

import msgspec
import torch

from flopwatch.device.detect import detect as detect_machine


def detect(arguments: dict[str, Any]) -> dict[str, Any]:
    """The Machine seen through `device`, as plain data."""
    machine: dict[str, Any] = msgspec.to_builtins(detect_machine(arguments["device"]))
    return machine


def device_memory(arguments: dict[str, Any]) -> dict[str, Any]:
    """Free and total bytes of a device, seen from a process that has its context: `{free_bytes, total_bytes}`."""
    device = arguments["device"]
    if device.split(":")[0] == "cpu":
        cpu = detect_machine("cpu").cpu
        return {"free_bytes": cpu.memory_free_bytes, "total_bytes": cpu.memory_total_bytes}
    module = torch.get_device_module(device)
    if hasattr(module, "mem_get_info"):
        free_bytes, total_bytes = module.mem_get_info()
    else:  # MPS shares the machine's memory
        total_bytes = module.recommended_max_memory()
        free_bytes = total_bytes - module.driver_allocated_memory()
    return {"free_bytes": int(free_bytes), "total_bytes": int(total_bytes)}
