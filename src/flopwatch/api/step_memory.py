"""The memory that a step in this process works in: read, limited for a while, and given back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from flopwatch.device.detect import detect
from flopwatch.errors import InputError, MissingError
from flopwatch.measure.limit import Limit, given_limit, less_headroom


@runtime_checkable
class StepMemory(Protocol):
    """A device's memory as a search in this process needs it; `flopwatch.testing.FakeDevice` is one."""

    @property
    def allocated_bytes(self) -> int:
        """Bytes of the tensors that are alive now."""

    @property
    def peak_bytes(self) -> int:
        """The most since the last `reset_peak`, in what the limit counts."""

    @property
    def available_bytes(self) -> int:
        """What there is for the search when nobody says a limit: all that is free, and what this process has of it."""

    def reset_peak(self) -> None:
        """Let the peak count from what is there now."""

    def empty_cache(self) -> None:
        """Give back what the allocator keeps of dead tensors."""

    def limited(self, limit_bytes: int | None) -> contextlib.AbstractContextManager[None]:
        """Inside, no more than that can be allocated."""


class CpuStepMemory:
    """Tensors made while the search runs, counted one by one: the limit is on them, and the machine is never full."""

    def __init__(self, free_bytes: int) -> None:
        from flopwatch.probe.tensor_budget import TensorBudget

        self.available_bytes = free_bytes
        self._budget = TensorBudget()

    @property
    def allocated_bytes(self) -> int:
        """Bytes of the tensors made by the search that are alive now."""
        return self._budget.allocated_bytes

    @property
    def peak_bytes(self) -> int:
        """The most of them at once since the last `reset_peak`."""
        return self._budget.peak_bytes

    @property
    def ops(self) -> set[str]:
        """The names of the operators that ran while it was limited."""
        return {op.rpartition(".")[0] for op in self._budget.ops}  # less the overload

    def reset_peak(self) -> None:
        """Let the peak count from what is there now."""
        self._budget.reset_peak()

    def empty_cache(self) -> None:
        """There is none."""

    @contextlib.contextmanager
    def limited(self, limit_bytes: int | None) -> Iterator[None]:
        """Inside, tensors are counted, and one past the limit raises torch.OutOfMemoryError."""
        self._budget.budget_bytes = limit_bytes
        with self._budget:
            yield


class AcceleratorStepMemory:
    """An accelerator's memory through torch's caching allocator, whose own limit is set for a while."""

    def __init__(self, device: str) -> None:
        import torch

        self._device = torch.device(device)
        self._module: Any = torch.get_device_module(self._device)
        if not hasattr(self._module, "set_per_process_memory_fraction") or not hasattr(
            self._module, "max_memory_reserved"
        ):
            raise MissingError(f"torch neither limits nor tells the memory of {device}", hint="use a CUDA device")

    @property
    def allocated_bytes(self) -> int:
        """Bytes of the tensors that are alive now."""
        return int(self._module.memory_allocated(self._device))

    @property
    def peak_bytes(self) -> int:
        """The most that the allocator had reserved since the last `reset_peak`: that is what its limit counts."""
        return int(self._module.max_memory_reserved(self._device))

    @property
    def available_bytes(self) -> int:
        """What is free on the device, with what this process's allocator has already."""
        free_bytes, _ = self._module.mem_get_info(self._device)
        return int(free_bytes) + int(self._module.memory_reserved(self._device))

    def reset_peak(self) -> None:
        """Let the peak count from what is there now."""
        self._module.reset_peak_memory_stats(self._device)

    def empty_cache(self) -> None:
        """Wait for what is running, and give cached memory back."""
        self._module.synchronize(self._device)
        self._module.empty_cache()

    @contextlib.contextmanager
    def limited(self, limit_bytes: int | None) -> Iterator[None]:
        """Inside, the allocator reserves no more; afterwards its limit is what it was."""
        get = getattr(self._module, "get_per_process_memory_fraction", None)  # newer than our oldest torch
        before = 1.0 if get is None else get(self._device)
        _, total_bytes = self._module.mem_get_info(self._device)
        if limit_bytes is not None:
            self._module.set_per_process_memory_fraction(min(1.0, limit_bytes / total_bytes), self._device)
        try:
            yield
        finally:
            self._module.set_per_process_memory_fraction(before, self._device)


def step_memory(device: str | StepMemory, limit_bytes: int | None) -> tuple[StepMemory, Limit]:
    """The memory behind a device's name, and the limit: given, or what is free now less a headroom.

    Raises InputError for a name that is no device's, MissingError for one that is not here or that torch
    cannot limit.
    """
    if not isinstance(device, str):
        if not isinstance(device, StepMemory):
            raise InputError(f"device={device!r} is no device", hint="give auto, cpu, cuda:1, or a FakeDevice")
        source = Limit(limit_bytes=device.available_bytes, source="all that the device has")
        return device, source if limit_bytes is None else given_limit(limit_bytes)
    machine = detect(device)
    memory: StepMemory
    if machine.kind == "cpu":
        memory = CpuStepMemory(machine.cpu.memory_free_bytes)
    else:
        memory = AcceleratorStepMemory(machine.torch_device)
    free = less_headroom(machine.kind, memory.available_bytes) if limit_bytes is None else given_limit(limit_bytes)
    return memory, free
