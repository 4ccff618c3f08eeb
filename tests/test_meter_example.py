"""The example of the documentation runs as it stands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "train_with_meter.py"


@pytest.mark.slow
def test_the_example_trains_and_prints_the_meters_line(tmp_path):
    """Twenty steps, a line at the tenth and the twentieth, and a summary with the evaluations' time."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--steps", "20", "--peak-tflops", "10"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    first, second, summary = done.stdout.strip().splitlines()
    assert "step 10: " in first
    assert "step 20: " in second
    assert " % of 10.00 TFLOP/s (fp32, given), goodput " in second
    assert "'perf/paused_s/eval': " in summary
