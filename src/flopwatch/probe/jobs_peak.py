"""Jobs that measure what a device can reach: matmul FLOP/s by dtype, memory bandwidth."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch

from flopwatch.device.accelerator import find_accelerator
from flopwatch.device.cpu import detect_cpu
from flopwatch.errors import InputError
from flopwatch.probe.contention import OthersCpu
from flopwatch.probe.settle import settle_of
from flopwatch.probe.shape_search import SearchPlan, Shape, search_shapes

_DTYPES: Final = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.float8_e4m3fn,
    "int8": torch.int8,
}
_Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]
_SAMPLE_S: Final = 0.02  # long against the clock's tick, a launch, and a switch of the scheduler
_MOST_CALLS: Final = 4096
_COLD_CACHES: Final = 3  # operands together are this many times the last-level cache, so that none is found there
_DEFAULT_CACHE_BYTES: Final = 64 << 20  # where the cache's size is unknown
_QUIET_SPREAD: Final = 0.10
_BUSY_CORES: Final = 0.15  # what a quiet system uses for itself stays below
_LOOK_EVERY_S: Final = 1.0
_SEED: Final = 20240607


def matmul_peak(arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of `search_shapes` for matmuls of `dtype` on `device` within `budget_s`; the last is the fastest shape.

    The summary is judged (`judged`): what to go by, whether it is steady, notes. Raises InputError for a dtype that
    the device cannot multiply.
    """
    device, dtype = arguments["device"], arguments["dtype"]
    matmuls = _Matmuls(device, dtype)
    plan = SearchPlan(budget_s=arguments["budget_s"], most_elements=matmuls.most_elements)
    for row in search_shapes(matmuls.sample, plan, clock=time.perf_counter):
        is_last = row["stage"] == "final"
        yield {**judged(row, matmuls.stolen_cores(), matmuls.throttle_reasons), "dtype": dtype} if is_last else row


def sweep(arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows `{shape, flops_per_s}` of plain `torch.mm` over `shapes`, the median of `n_samples` calls each.

    What a reader would write by hand; `matmul_peak` is held against it (benchmarks/bench_peak.py).
    """
    dtype, device = _DTYPES[arguments["dtype"]], arguments["device"]
    settle = settle_of(device)
    best: dict[str, Any] = {"flops_per_s": 0.0}
    for m, n, k in arguments["shapes"]:
        a, b = torch.randn(m, k, device=device).to(dtype), torch.randn(k, n, device=device).to(dtype)
        torch.mm(a, b)
        settle()
        samples_s = []
        for _ in range(arguments["n_samples"]):
            began_s = time.perf_counter()
            torch.mm(a, b)
            settle()
            samples_s.append(time.perf_counter() - began_s)
        row = {"shape": [m, n, k], "flops_per_s": 2 * m * n * k / statistics.median(samples_s)}
        best = max(best, row, key=lambda each: each["flops_per_s"])
        yield row
    yield {**best, "stage": "final"}


def bandwidth(arguments: dict[str, Any]) -> dict[str, Any]:
    """Bytes per second of a copy (read + write) and a triad (two reads + write) over arrays far beyond the caches.

    `{copy: {bytes_per_s, samples_s}, triad: {...}, array_bytes}` counts as STREAM does: not what a
    cache fetches besides.
    """
    device = arguments["device"]
    settle = settle_of(device)
    cache_bytes = _cache_bytes(device)
    array_bytes = min(max(8 * cache_bytes, 256 << 20), _free_bytes(device) // 8)
    n = array_bytes // 4
    a, b = torch.randn(n, device=device), torch.randn(n, device=device)
    c = torch.zeros(n, device=device)
    kernels: dict[str, tuple[int, Callable[[], Any]]] = {
        "copy": (2, lambda: c.copy_(a)),
        "triad": (3, lambda: torch.add(a, b, alpha=3.0, out=c)),
    }
    result: dict[str, Any] = {"array_bytes": 4 * n, "cache_bytes": cache_bytes}
    samples_s: dict[str, list[float]] = {name: [] for name in kernels}
    deadline_s = time.perf_counter() + arguments["budget_s"]
    n_rounds = 0
    while n_rounds < 8 or (n_rounds < 40 and time.perf_counter() < deadline_s):
        for name, (_, kernel) in kernels.items():
            settle()
            began_s = time.perf_counter()
            kernel()
            settle()
            samples_s[name].append(time.perf_counter() - began_s)
        n_rounds += 1
    for name, (n_arrays, _) in kernels.items():
        kept_s = samples_s[name][2:]  # the first rounds touch every page for the first time
        rate = n_arrays * 4 * n / statistics.median(kept_s)
        result[name] = {"bytes_per_s": rate, "samples_s": kept_s}
    return result


class _Matmuls:
    """Matmuls of one dtype on one device, timed with operands that are not in the caches.

    Operands are windows of one pool of random numbers: constant data would draw less power and let a device clock
    higher. The window moves on with each call, so that small operands are cold as well.
    """

    def __init__(self, device: str, dtype: str) -> None:
        self.device, self.dtype = device, dtype
        self._settle = settle_of(device)
        self._bytes = torch.empty(0, dtype=_DTYPES[dtype]).element_size()
        self._call = _kernel(device, dtype)
        self._cold_elements = _COLD_CACHES * _cache_bytes(device) // self._bytes
        self.most_elements = _free_bytes(device) // (4 * self._bytes)
        self._pool = _random(min(self._cold_elements, self.most_elements), device, dtype)
        self._at = 0
        self._results: dict[tuple[int, int], torch.Tensor] = {}
        self._others = OthersCpu()
        self._looked_s = 0.0
        self.throttle_reasons: set[str] = set()

    def stolen_cores(self) -> float:
        """Cores that other processes kept busy although these matmuls could have used them; 0 off the CPU."""
        others = self._others.n_cores()
        is_free = torch.get_num_threads() + others < (os.cpu_count() or 1) + _BUSY_CORES
        return 0.0 if self.device != "cpu" or is_free else others

    def sample(self, shape: Shape) -> float:
        """Seconds of one matmul, the mean of as many as make a sample long enough to be timed."""
        result = self._result(shape)
        n_calls = 1
        while True:
            operands = [self._operands(shape) for _ in range(n_calls)]
            self._settle()
            began_s = time.perf_counter()
            for a, b in operands:
                self._call(a, b, result)
            self._settle()
            took_s = time.perf_counter() - began_s
            if took_s >= _SAMPLE_S or n_calls >= _MOST_CALLS:
                self._look_at_the_clock(operands, result)
                return took_s / n_calls
            n_calls = min(_MOST_CALLS, max(2 * n_calls, int(1.3 * n_calls * _SAMPLE_S / max(took_s, 1e-6))))

    def _look_at_the_clock(self, operands: list[tuple[torch.Tensor, torch.Tensor]], result: torch.Tensor) -> None:
        """Ask the driver now and then what holds the clock down, while matmuls run that are not timed."""
        kind, _, index = self.device.partition(":")
        if kind != "cuda" or time.perf_counter() - self._looked_s < _LOOK_EVERY_S:
            return
        for a, b in operands:
            self._call(a, b, result)
        found = find_accelerator("auto", int(index or 0))
        self.throttle_reasons |= set(found.throttle_reasons) if found is not None else set()
        self._settle()
        self._looked_s = time.perf_counter()

    def _operands(self, shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
        a = self._window(shape.m * shape.k).view(shape.m, shape.k)
        b = self._window(shape.k * shape.n)
        return a, b.view(shape.n, shape.k).t() if self._is_transposed(shape) else b.view(shape.k, shape.n)

    def _is_transposed(self, shape: Shape) -> bool:
        return shape.layout == "nt" or self.dtype == "fp8"  # fp8 kernels want the second operand column-major

    def _window(self, n: int) -> torch.Tensor:
        if n > self._pool.numel():
            self._pool = _random(n, self.device, self.dtype)
        if self._at + n > self._pool.numel():
            self._at = 0
        window = self._pool[self._at : self._at + n]
        self._at += -(-n // 64) * 64  # the next window starts on a cache line
        return window

    def _result(self, shape: Shape) -> torch.Tensor:
        """Where the product is written: given beforehand, so that no fresh page is touched while the clock runs."""
        key = (shape.m, shape.n)
        if key not in self._results:
            self._results.clear()
            self._results[key] = torch.empty(key, device=self.device, dtype=_result_dtype(self.dtype))
        return self._results[key]


def _kernel(device: str, dtype: str) -> _Kernel:
    """The matmul of a dtype as torch runs it, tried once; raises InputError where it does not exist."""
    if dtype == "tf32" and device.split(":")[0] != "cuda":
        raise InputError(f"{device} has no tf32", hint="tf32 is a mode of CUDA and ROCm devices")
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    kernel = {"int8": _int8_matmul, "fp8": _fp8_matmul}.get(dtype, _matmul)
    a = torch.ones((64, 64), device=device).to(_DTYPES[dtype])
    try:
        kernel(a, a.t(), torch.empty((64, 64), device=device, dtype=_result_dtype(dtype)))
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{device} cannot multiply {dtype} ({reason})", hint="leave this dtype out") from error
    return kernel


def _matmul(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    torch.mm(a, b, out=out)


def _int8_matmul(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    torch._int_mm(a, b, out=out)


def _fp8_matmul(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    one = torch.ones((), device=a.device)
    torch._scaled_mm(a, b, one, one, out_dtype=out.dtype, out=out)


def _result_dtype(dtype: str) -> torch.dtype:
    return {"int8": torch.int32, "fp8": torch.bfloat16}.get(dtype, _DTYPES[dtype])


def _random(n: int, device: str, dtype: str) -> torch.Tensor:
    torch.manual_seed(_SEED)  # the same operands every time
    if dtype == "int8":
        return torch.randint(-127, 128, (n,), device=device, dtype=torch.int8)
    return torch.randn(n, device=device).to(_DTYPES[dtype])


def _cache_bytes(device: str) -> int:
    """Bytes of the last-level cache: the CPU's as the system tells it, a GPU's L2 as torch does."""
    if device.split(":")[0] == "cpu":
        return detect_cpu().cache_bytes or _DEFAULT_CACHE_BYTES
    if device.split(":")[0] == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size) or _DEFAULT_CACHE_BYTES
    return _DEFAULT_CACHE_BYTES


def _free_bytes(device: str) -> int:
    kind, _, index = device.partition(":")
    if kind == "cpu":
        return detect_cpu().memory_free_bytes
    found = find_accelerator("auto", int(index or 0))
    return (found.memory_free_bytes if found is not None else None) or (1 << 30)


def judged(row: dict[str, Any], stolen_cores: float, throttle_reasons: set[str]) -> dict[str, Any]:
    """The summary with the figure to go by, and notes on what a reader should know of it.

    On a quiet device that is the median of the fastest shape. Where the samples disagree, or other processes had a
    part of the cores, the best sample of all is taken: such work can only slow a matmul. It is a lower bound. Where
    the driver says that it held the clock down the median stands: that is how fast this device runs.
    """
    throttled = sorted(throttle_reasons)
    notes = [f"the driver held the clock down: {', '.join(throttled)}"] if throttled else []
    if row["n_dropped"]:
        notes.append(f"the first {row['n_dropped']} rounds were dropped: the device was still warming up")
    is_shared = stolen_cores >= _BUSY_CORES
    is_steady = row["spread_fraction"] <= _QUIET_SPREAD and not is_shared
    rate = row["flops_per_s"] if is_steady or throttled else row["best_flops_per_s"]
    if is_shared:
        notes.append(f"other processes kept {stolen_cores:.1f} cores busy: a lower bound")
    if not is_steady:
        taken = "median" if throttled else "best"
        notes.append(f"samples differ by {100 * row['spread_fraction']:.0f} %: the {taken} of them was taken")
    return {
        **row,
        "flops_per_s": rate,
        "median_flops_per_s": row["flops_per_s"],
        "is_steady": is_steady,
        "stolen_cores": stolen_cores,
        "notes": notes,
    }
