"""Jobs that run a step of a workload: does it fit, how long does it take."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import torch

from flopwatch.model.own import OwnModel
from flopwatch.model.spec import ModelSpec
from flopwatch.probe.contention import OthersCpu
from flopwatch.probe.failures import classify_error
from flopwatch.probe.fresh_memory import FreshMemory
from flopwatch.probe.sampling import N_STEPS_BEFORE, SamplePlan, sample_steps
from flopwatch.probe.settle import settle_of
from flopwatch.probe.tensor_peak import TensorPeak, tensor_peak
from flopwatch.reference.own import build_own_step
from flopwatch.reference.step import Step, build_step
from flopwatch.workload import Workload


def fit_step(arguments: dict[str, Any]) -> dict[str, Any]:
    """Run `n_steps` steps of `workload`: `{n_steps, step_s, tensor_peak_bytes}`.

    They run on the reference network of `spec`, or on the model that the user's code makes (`own`).

    At least two steps show the peak of training, because optimizer state is made at the end of the first.
    `tensor_peak_bytes` is null unless `count_tensors` is true: counting takes memory itself, which a limit would feel.
    """
    n_steps = arguments["n_steps"]
    step_s: list[float] = []

    def work() -> None:
        step, settle = build(arguments)
        gc.collect()
        for _ in range(n_steps):
            began_s = time.perf_counter()
            step()
            settle()
            step_s.append(time.perf_counter() - began_s)

    is_counted = arguments.get("count_tensors", False)
    with _counting(arguments["device"]) if is_counted else contextlib.nullcontext(TensorPeak()) as counted:
        work()
    return {"n_steps": n_steps, "step_s": step_s, "tensor_peak_bytes": counted.peak_bytes}


def bench_step(arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of `sampling.sample_steps` for a step of `workload` on the network of `spec`, or on the user's `own`.

    The summary has more: `tensor_peak_bytes`, the exact peak of building the network and the first two steps,
    `others_cores`, the cores that other processes kept busy meanwhile, and `fresh`, a FreshMemory.row. Python's garbage
    collector runs between samples, not inside them.
    """
    device = arguments["device"]
    counting = contextlib.nullcontext(TensorPeak()) if _is_cpu(device) else _counting(device)
    with counting as counted:
        step, settle = started(arguments)
    plan = SamplePlan(**arguments.get("plan", {}))
    gc.collect()
    gc.freeze()  # what is there stays; collections below look at what a step leaves behind only
    gc.disable()
    others, fresh, n_steps = OthersCpu(), FreshMemory(), 0
    try:
        for row in sample_steps(
            step, plan, clock=time.perf_counter, settle=settle, n_done=N_STEPS_BEFORE, second_clock=time.time
        ):
            if "samples_s" in row:
                row |= {"tensor_peak_bytes": counted.peak_bytes, "others_cores": others.n_cores()}
                row["fresh"] = fresh.row(n_steps)
                break
            if "sample_s" in row:
                n_steps += row["n_steps"]
            else:  # a warm-up step
                fresh = FreshMemory()
            yield row
            gc.collect()
    finally:
        gc.unfreeze()
        gc.enable()
    if _is_cpu(device):
        del step
        gc.collect()
        row["tensor_peak_bytes"] = _peak_of_two_steps(arguments)
    yield row


def _peak_of_two_steps(arguments: dict[str, Any]) -> int | None:
    """The exact peak on a CPU of building the network anew and two steps; None where memory does not allow counting.

    It comes after what is timed: what a profiler leaves in the heap changes how much of it goes back to the system
    after each step, and with that the time of the steps (7 % for gpt-small).
    """
    try:
        with _counting("cpu") as counted:
            started(arguments)
    except (MemoryError, RuntimeError) as error:
        if classify_error(type(error).__name__, str(error))[0] != "oom":
            raise
        return None
    return counted.peak_bytes


def started(arguments: dict[str, Any]) -> tuple[Step, Callable[[], None]]:
    """What `build` gives, after its first steps."""
    step, settle = build(arguments)
    for _ in range(N_STEPS_BEFORE):
        step()
    settle()
    return step, settle


def build(arguments: dict[str, Any]) -> tuple[Step, Callable[[], None]]:
    """The step of `spec`, or of the user's `own`, and a function that returns when all its work is done."""
    workload = msgspec.convert(arguments["workload"], Workload)
    device = arguments["device"]
    compiled = arguments.get("compiled", False)
    if workload.dtype == "tf32":
        torch.set_float32_matmul_precision("high")  # else fp32 matmuls stay fp32
    if "own" in arguments:
        own = msgspec.convert(arguments["own"], OwnModel)
        return build_own_step(own, workload, device=device, compiled=compiled), settle_of(device)
    spec = msgspec.convert(arguments["spec"], ModelSpec)
    return build_step(spec, workload, device=device, compiled=compiled), settle_of(device)


@contextlib.contextmanager
def _counting(device: str) -> Iterator[TensorPeak]:
    """Count the block's peak of live tensors: by memory events on a CPU, by the allocator's own count elsewhere."""
    if _is_cpu(device):
        with tensor_peak() as counted:
            yield counted
        return
    module, counted = torch.get_device_module(device), TensorPeak()
    has_count = hasattr(module, "max_memory_allocated")
    if has_count:
        module.reset_peak_memory_stats()
    yield counted
    if has_count:
        counted.peak_bytes = int(module.max_memory_allocated())


def _is_cpu(device: str) -> bool:
    return device.split(":")[0] == "cpu"
