"""The accelerator as torch and its driver's management library see it. torch is imported when a function is called."""

from __future__ import annotations

from typing import Any, Final

from flopwatch.device.cpu import cpu_model
from flopwatch.device.machine import Accelerator, AcceleratorKind

# nvml.h, nvmlClocksEventReasons; idle and application clocks are choices, not a throttle.
_THROTTLE_BITS: Final = {
    0x0000000000000004: "software power cap",
    0x0000000000000008: "hardware slowdown",
    0x0000000000000010: "sync boost",
    0x0000000000000020: "software thermal slowdown",
    0x0000000000000040: "hardware thermal slowdown",
    0x0000000000000080: "hardware power brake",
}


def find_accelerator(backend: str, index: int) -> Accelerator | None:
    """The accelerator of that backend (`auto`: torch's current one) and index, or None."""
    import torch

    if backend == "auto":
        if not torch.accelerator.is_available():
            return None
        current = torch.accelerator.current_accelerator()
        if current is None or current.type not in {"cuda", "xpu", "mps"}:
            return None
        return find_accelerator("rocm" if torch.version.hip and current.type == "cuda" else current.type, index)
    if backend in {"cuda", "rocm"}:
        is_here = torch.cuda.is_available() and (backend == "rocm") == bool(torch.version.hip)
        return _cuda(index) if is_here and index < torch.cuda.device_count() else None
    if backend == "xpu":
        return _xpu(index) if torch.xpu.is_available() and index < torch.xpu.device_count() else None
    return _mps() if torch.backends.mps.is_available() and index == 0 else None


def _cuda(index: int) -> Accelerator:
    """A CUDA or ROCm device; clocks, power and throttling of an NVIDIA one through nvidia-ml-py."""
    import torch

    properties = torch.cuda.get_device_properties(index)
    free_bytes, total_bytes = torch.cuda.mem_get_info(index)
    kind: AcceleratorKind = "rocm" if torch.version.hip else "cuda"
    facts: dict[str, Any] = {}
    if kind == "cuda":
        facts = _nvml_facts(str(properties.uuid))
    return Accelerator(
        kind=kind,
        index=index,
        name=properties.name,
        memory_total_bytes=total_bytes,
        memory_free_bytes=free_bytes,
        sm_count=properties.multi_processor_count,
        capability=f"{properties.major}.{properties.minor}",
        is_mig=" MIG " in properties.name,
        **facts,
    )


def _nvml_facts(uuid: str) -> dict[str, Any]:
    try:
        import pynvml
    except ImportError:
        return {"unknown": ("clocks, power limit, throttling: nvidia-ml-py is not installed",)}
    return nvml_facts(pynvml, uuid)


def nvml_facts(nvml: Any, uuid: str) -> dict[str, Any]:
    """Driver, clocks, power limits and throttle reasons of the GPU with that UUID, from the `pynvml` module.

    Asked one by one: a virtual GPU or a MIG slice answers some and refuses others.
    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return {"unknown": (f"clocks, power limit, throttling: {error}",)}
    facts: dict[str, Any] = {}
    unknown = []
    try:
        facts["driver"] = _text(nvml.nvmlSystemGetDriverVersion())
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
        for name, ask in _questions(nvml).items():
            try:
                facts[name] = ask(handle)
            except nvml.NVMLError as error:
                unknown.append(f"{name}: {error}")
    except nvml.NVMLError as error:
        unknown.append(f"clocks, power limit, throttling: {error}")
    finally:
        nvml.nvmlShutdown()
    return {**facts, "unknown": tuple(unknown)}


def _questions(nvml: Any) -> dict[str, Any]:
    return {
        "clock_hz": lambda h: nvml.nvmlDeviceGetClockInfo(h, nvml.NVML_CLOCK_SM) * 1e6,
        "max_clock_hz": lambda h: nvml.nvmlDeviceGetMaxClockInfo(h, nvml.NVML_CLOCK_SM) * 1e6,
        "memory_clock_hz": lambda h: nvml.nvmlDeviceGetClockInfo(h, nvml.NVML_CLOCK_MEM) * 1e6,
        "power_limit_w": lambda h: nvml.nvmlDeviceGetEnforcedPowerLimit(h) / 1000,
        "default_power_limit_w": lambda h: nvml.nvmlDeviceGetPowerManagementDefaultLimit(h) / 1000,
        "throttle_reasons": lambda h: throttle_reasons(nvml.nvmlDeviceGetCurrentClocksEventReasons(h)),
    }


def throttle_reasons(bits: int) -> tuple[str, ...]:
    """What holds the clocks down, from NVML's bit mask."""
    return tuple(reason for bit, reason in _THROTTLE_BITS.items() if bits & bit)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _xpu(index: int) -> Accelerator:
    import torch

    properties = torch.xpu.get_device_properties(index)
    free_bytes, total_bytes = torch.xpu.mem_get_info(index)
    return Accelerator(
        kind="xpu",
        index=index,
        name=properties.name,
        memory_total_bytes=total_bytes,
        memory_free_bytes=free_bytes,
        sm_count=properties.max_compute_units,
        driver=properties.driver_version,
    )


def _mps() -> Accelerator:
    """Apple's GPU: named after the chip, sharing the host's memory."""
    import torch

    total_bytes = torch.mps.recommended_max_memory()
    return Accelerator(
        kind="mps",
        index=0,
        name=cpu_model() or "Apple GPU",
        memory_total_bytes=total_bytes,
        memory_free_bytes=total_bytes - torch.mps.driver_allocated_memory(),
        sm_count=torch.backends.mps.get_core_count(),
    )
