"""Who else was using the CPU while a step was timed."""

from __future__ import annotations

import time

import psutil


class OthersCpu:
    """From when it is made: the CPU time of the whole system, and this process's part of it."""

    def __init__(self) -> None:
        self._began_s = time.perf_counter()
        self._system_s = _busy_s()
        self._own_s = time.process_time()

    def n_cores(self, *, helpers_s: float = 0.0) -> float:
        """Cores that others kept busy on average since it was made; `helpers_s` is CPU time of our own processes."""
        wall_s = time.perf_counter() - self._began_s
        others_s = (_busy_s() - self._system_s) - (time.process_time() - self._own_s) - helpers_s
        return max(0.0, others_s / wall_s) if wall_s > 0 else 0.0


def _busy_s() -> float:
    """Seconds of CPU time that all processes of the system have used; what another guest of the host took is in it."""
    times = psutil.cpu_times()
    busy_s: float = times.user + times.nice + times.system  # polite processes take time as well
    if hasattr(times, "steal"):  # Linux
        busy_s += times.steal + times.irq + times.softirq
    return busy_s
