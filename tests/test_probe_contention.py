"""Who else used the CPU is seen, polite processes too, and one's own work is not taken for others'."""

import os
import subprocess
import sys
import time

import pytest

from flopwatch.probe.contention import OthersCpu

SPIN = "import time; end = time.time() + 30\nwhile time.time() < end: pass"


def others_while(work_s):
    others = OthersCpu()
    time.sleep(work_s)
    return others.n_cores()


@pytest.mark.parametrize("niceness", ["0", "19"])
def test_a_process_that_spins_is_counted_even_a_polite_one(niceness):
    """A second process that only computes takes up to a core; with nice 19 the system books it elsewhere."""
    before = others_while(0.5)
    with subprocess.Popen(["nice", "-n", niceness, sys.executable, "-c", SPIN]) as spinner:
        time.sleep(0.2)
        cpu_s = _cpu_s(spinner.pid)
        others = OthersCpu()
        time.sleep(1.0)
        seen, used = others.n_cores(), _cpu_s(spinner.pid) - cpu_s
        spinner.kill()
    assert seen > 0.7 * used - 0.05, (before, seen, used)


def _cpu_s(pid):
    import psutil

    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def test_one_s_own_work_is_not_others():
    """This process computes for half a second: that core is its own."""
    others, end_s = OthersCpu(), time.perf_counter() + 0.5
    began_s = time.process_time()
    while time.perf_counter() < end_s:
        pass
    own = (time.process_time() - began_s) / 0.5
    total_cores = os.cpu_count()
    assert others.n_cores() <= total_cores - own + 0.1
