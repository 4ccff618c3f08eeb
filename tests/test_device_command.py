"""`flopwatch devices`: the table, one device, a filter; as JSON; without torch."""

import json
import subprocess
import sys

import pytest


def _run(*arguments, env=None):
    code = "import sys; from flopwatch.cli import run; code = run(sys.argv[1:])\n"
    code += "print('torch' in sys.modules, file=sys.stderr); sys.exit(code)"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=env)


def test_one_device_by_its_drivers_name_as_json_without_torch():
    """L40S: 366.4 TFLOP/s dense bf16 (733 sparse), 48 GiB, 864 GB/s."""
    done = _run("devices", "NVIDIA L40S", "--json")
    (device,) = json.loads(done.stdout)["results"]
    (bf16,) = [peak for peak in device["peaks"] if peak["dtype"] == "bf16"]
    assert (device["device"], device["memory_bytes"], device["bandwidth_bytes_per_s"]) == ("L40S", 48 * 2**30, 864e9)
    assert (bf16["dense_flops_per_s"], bf16["sparse_flops_per_s"], bf16["is_default"]) == (366.4e12, 733e12, True)
    assert "DS(L40S" in bf16["source"]
    assert done.stderr.splitlines() == ["False"]


def test_the_whole_table_starts_with_this_machine():
    """92 variants and the machine; the filter keeps those that have the dtype."""
    everything = json.loads(_run("devices", "--json").stdout)
    assert len(everything["results"]) == 93
    assert everything["results"][0]["variant"] == "(this machine)"
    fp4 = json.loads(_run("devices", "--dtype", "fp8", "--json").stdout)["results"][1:]
    assert {"H100", "L4"} <= {device["device"] for device in fp4}
    assert "A100" not in {device["device"] for device in fp4}


def test_an_unsupported_dtype_of_a_device_is_said():
    """bf16 on a T4: no row, and a warning that says so."""
    done = _run("devices", "t4", "--dtype", "bf16", "--json")
    record = json.loads(done.stdout)
    assert record["results"][0]["peaks"] == []
    assert "T4 PCIe has no bf16 matmul peak" in record["warnings"][0]
    assert "T4 PCIe has no bf16 matmul peak" in done.stderr


@pytest.mark.parametrize("name", ["RTX 4090 D", "NVIDIA GeForce RTX 4090 Laptop GPU", "L4s"])
def test_an_unknown_device_is_bad_usage_in_one_line(name):
    """Exit code 2, no traceback, no neighbour's figures."""
    done = _run("devices", name)
    assert done.returncode == 2
    assert done.stdout == ""
    assert name in done.stderr.splitlines()[0]
    assert len(done.stderr.splitlines()) == 2
