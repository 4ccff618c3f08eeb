"""Detection: what this process may use of a CPU and its memory, and what a driver says, by files and a fake driver."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from flopwatch.device import accelerator, cpu, detect
from flopwatch.device.machine import Accelerator
from flopwatch.errors import InputError, MissingError

GIB = 2**30


def _files(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_cgroup_v2_quota_is_the_tightest_of_all_levels(tmp_path):
    """A pod with 1.5 cores inside a slice with 4: 1.5."""
    root = _files(
        tmp_path,
        {
            "proc/self/cgroup": "0::/kube/pod7\n",
            "sys/fs/cgroup/kube/pod7/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/kube/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/cpu.max": "max 100000\n",
        },
    )
    assert cpu.quota_cores(root) == 1.5


def test_a_cgroup_v1_quota_and_no_quota(tmp_path):
    """-1 is v1's word for none; a folder that the container does not show is skipped."""
    files = {"proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n"}
    base = "sys/fs/cgroup/cpu,cpuacct/"
    root = _files(tmp_path, {**files, base + "cpu.cfs_quota_us": "-1", base + "cpu.cfs_period_us": "100000"})
    assert cpu.quota_cores(root) is None
    _files(root, {base + "docker/abc/cpu.cfs_quota_us": "50000", base + "docker/abc/cpu.cfs_period_us": "100000"})
    assert cpu.quota_cores(root) == 0.5


def test_a_cgroups_memory_limit_bounds_what_can_be_allocated(tmp_path):
    """3 GiB limit, 1.25 GiB used of which 0.25 GiB is file cache: 2 GiB are left."""
    root = _files(
        tmp_path,
        {
            "proc/self/cgroup": "0::/job\n",
            "sys/fs/cgroup/job/memory.max": str(3 * GIB),
            "sys/fs/cgroup/job/memory.current": str(5 * GIB // 4),
            "sys/fs/cgroup/job/memory.stat": f"anon 7\ninactive_file {GIB // 4}\n",
            "sys/fs/cgroup/memory.max": "max",
        },
    )
    found = cpu.detect_cpu(root)
    assert cpu.memory_limit_bytes(root) == 3 * GIB
    if psutil.virtual_memory().available > 3 * GIB:
        assert (found.memory_total_bytes, found.memory_free_bytes, found.memory_limit) == (3 * GIB, 2 * GIB, "cgroup")


def test_a_cgroup_v1_without_a_limit_is_no_limit(tmp_path):
    """v1 writes a number near 2^63 where there is none."""
    files = {
        "proc/self/cgroup": "3:memory:/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
    }
    assert cpu.memory_limit_bytes(_files(tmp_path, files)) is None


def test_the_model_and_instruction_sets_are_read_from_cpuinfo(tmp_path):
    """Only the sets that matter for matmuls are named."""
    text = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Platinum 8480+\n"
    text += "flags\t\t: fpu avx2 fma avx512f amx_bf16 amx_tile\n\nprocessor : 1\n"
    root = _files(tmp_path, {"proc/cpuinfo": text})
    found = cpu.detect_cpu(root)
    assert found.model == "Intel(R) Xeon(R) Platinum 8480+"
    assert found.instruction_sets == ("avx2", "fma", "avx512f", "amx_tile", "amx_bf16")


def test_the_last_level_cache_is_the_largest_that_core_0_sees(tmp_path):
    """32 MiB of L3 beside 1 MiB of L2."""
    base = "sys/devices/system/cpu/cpu0/cache/"
    root = _files(tmp_path, {base + "index0/size": "48K", base + "index2/size": "1024K", base + "index3/size": "32M"})
    assert cpu.detect_cpu(root).cache_bytes == 32 * 2**20


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_affinity_takes_cores_away():
    """A process pinned to one core may use one."""
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from flopwatch.device.cpu import detect_cpu; c = detect_cpu(); print(c.n_affinity_cores, c.n_usable_cores)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA binds on Linux")
def test_a_resource_limit_bounds_what_can_be_allocated():
    """512 MiB of RLIMIT_DATA leave less than 512 MiB, and the limit is named."""
    code = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (512 * 2**20, 512 * 2**20))\n"
    code += "from flopwatch.device.cpu import detect_cpu; c = detect_cpu(); print(c.memory_free_bytes, c.memory_limit)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    free, limit = done.stdout.split()
    assert 256 * 2**20 < int(free) < 512 * 2**20
    assert limit == "RLIMIT_DATA"


def test_detecting_a_cpu_needs_no_torch():
    """On a CPU build torch is not even imported, and the environment tells its version all the same."""
    code = "import sys, json; from flopwatch.device.detect import detect, environment\n"
    code += "m = detect('cpu'); print(json.dumps([m.torch_device, environment(m), 'torch' in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    device, here, has_torch = json.loads(done.stdout)
    assert device == "cpu"
    assert not has_torch
    assert here["torch"]


def test_the_environment_tells_no_name_of_host_user_or_folder():
    """A record can be passed on."""
    import getpass
    import socket

    text = json.dumps(detect.environment(detect.detect("cpu"))).lower()
    for secret in (socket.gethostname().lower(), str(Path.home()).lower()):
        assert len(secret) < 3 or secret not in text
    assert f'"{getpass.getuser().lower()}"' not in text


@pytest.mark.parametrize("word", ["tpu", "cuda:x", "cpu:1", "auto:0", ""])
def test_a_word_that_is_no_device_is_refused(word):
    """With the words that are."""
    with pytest.raises(InputError, match="is no device of this machine"):
        detect.detect(word)


def test_an_accelerator_that_is_not_here_is_missing():
    """Exit code 4, with the reason."""
    if detect.detect("auto").kind != "cpu":
        pytest.skip("there is an accelerator")
    with pytest.raises(MissingError, match="no cuda device is here"):
        detect.detect("cuda")


class _NvmlError(Exception):
    """As pynvml's."""


def _nvml(**changes):
    """A driver with an H100 at 500 of 700 W, in a software power cap."""
    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "550.54.15",
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetClockInfo": lambda _handle, kind: {1: 1410, 2: 2619}[kind],
        "nvmlDeviceGetMaxClockInfo": lambda *_: 1980,
        "nvmlDeviceGetEnforcedPowerLimit": lambda _: 500_000,
        "nvmlDeviceGetPowerManagementDefaultLimit": lambda _: 700_000,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda _: 0x4 | 0x1,
    }
    return SimpleNamespace(NVMLError=_NvmlError, NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2, **{**answers, **changes})


def test_the_drivers_clocks_power_and_throttling_are_told():
    """Milliwatts and MHz become W and Hz; idleness is no throttle."""
    facts = accelerator.nvml_facts(_nvml(), "123")
    assert facts["driver"] == "550.54.15"
    assert (facts["clock_hz"], facts["max_clock_hz"], facts["memory_clock_hz"]) == (1410e6, 1980e6, 2619e6)
    assert (facts["power_limit_w"], facts["default_power_limit_w"]) == (500, 700)
    assert facts["throttle_reasons"] == ("software power cap",)
    assert facts["unknown"] == ()


def test_what_a_driver_refuses_is_unknown_with_its_reason():
    """A MIG slice answers no clocks; the rest is still told."""

    def refuse(*_):
        raise _NvmlError("Not Supported")

    facts = accelerator.nvml_facts(_nvml(nvmlDeviceGetClockInfo=refuse), "MIG-7")
    assert facts["unknown"] == ("clock_hz: Not Supported", "memory_clock_hz: Not Supported")
    assert facts["power_limit_w"] == 500
    facts = accelerator.nvml_facts(_nvml(nvmlInit=refuse), "1")
    assert facts == {"unknown": ("clocks, power limit, throttling: Not Supported",)}


def test_the_real_pynvml_has_every_name_that_is_asked_for():
    """The fake driver above has the names of the real one."""
    pynvml = pytest.importorskip("pynvml")
    assert not [name for name in vars(_nvml()) if not hasattr(pynvml, name)]


def test_an_accelerator_is_looked_up_by_name_sms_and_memory():
    """Two cards of one name are told apart; a slice of one has no row, with the reason."""
    card = Accelerator(kind="cuda", index=0, name="NVIDIA GeForce RTX 3080", sm_count=70, memory_total_bytes=12 * GIB)
    assert detect.machine_of(card).device.label == "RTX 3080 12GB"
    part = Accelerator(kind="rocm", index=1, name="AMD Instinct MI300X", sm_count=38, memory_total_bytes=24 * GIB)
    machine = detect.machine_of(part)
    assert machine.device is None
    assert "fewer SMs" in machine.why_no_device
    assert machine.torch_device == "cuda:1"
