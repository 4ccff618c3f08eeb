"""The dtype that work runs in when none is asked for: what is fast on the machine."""

from __future__ import annotations

from typing import Final

from flopwatch.device.machine import Machine
from flopwatch.errors import InputError
from flopwatch.workload import DType

_BF16_INSTRUCTIONS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # Intel and AMD, Intel, Arm
_FIRST_BF16_CAPABILITY: Final = 8  # Ampere, which has tf32 too; Volta and Turing multiply fp16 only


def default_dtype(machine: Machine) -> DType:
    """bf16 where the hardware multiplies it, fp16 on older NVIDIA cards, else fp32."""
    if machine.kind == "cpu":
        return "bf16" if _BF16_INSTRUCTIONS & set(machine.cpu.instruction_sets) else "fp32"
    if machine.kind == "mps":
        return "fp32"  # Apple's cores run it as fast as 16-bit formats (device catalogue)
    return "fp16" if _is_before_ampere(machine) else "bf16"


def check_dtype(dtype: str, machine: Machine) -> None:
    """Raise InputError for a dtype that the machine would silently run as another: tf32, where that is no mode."""
    if dtype != "tf32" or has_tf32(machine):
        return
    raise InputError(f"--dtype tf32: {machine.name} has no tf32", hint="it would run in fp32: use --dtype fp32")


def has_tf32(machine: Machine) -> bool:
    """Whether the machine has a mode in which fp32 matmuls run in tf32."""
    return machine.kind in {"cuda", "rocm"} and not _is_before_ampere(machine)


def _is_before_ampere(machine: Machine) -> bool:
    capability = machine.accelerator.capability if machine.accelerator is not None else None
    return machine.kind == "cuda" and capability is not None and int(capability.split(".")[0]) < _FIRST_BF16_CAPABILITY
