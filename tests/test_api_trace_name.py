"""`fw.trace` is a function and a package of the same name: calling it traces, whatever was imported before."""

import subprocess
import sys

STEP = """
import torch
x, w = torch.ones(3, 5, device="meta"), torch.ones(5, 7, device="meta")
print(fw.trace(lambda: x @ w).total, fw.trace(lambda: x @ w).total)
"""


def _printed(before):
    code = f"import flopwatch as fw\n{before}\n{STEP}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_fw_trace_can_be_called_twice():
    """[3, 5] @ [5, 7] is 2 x 3 x 5 x 7 FLOPs; the first call loads the package, which takes the name over."""
    assert _printed("") == ["210", "210"]


def test_fw_trace_can_be_called_after_its_package_was_loaded():
    """Counting a memory replay loads the package first."""
    assert _printed("import flopwatch.trace.replay") == ["210", "210"]
