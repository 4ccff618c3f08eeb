"""The plan for a global batch and the headroom: what fits alone may not fit beside kept gradients."""

import subprocess
import sys

import pytest

from flopwatch.errors import InputError
from flopwatch.measure.accumulation import with_plan
from flopwatch.measure.fit import FitRequest, fit_batch
from flopwatch.measure.limit import Headroom, given_limit, less_headroom, parse_headroom
from flopwatch.measure.series import ProbeSeries
from flopwatch.model.spec import ModelSpec
from flopwatch.probe.protocol import ProbeOutcome
from flopwatch.workload import Workload

MIB = 1 << 20
SPEC = ModelSpec(name="odd", n_layers=3, d_model=56, n_heads=7, vocab_size=301, max_seq_len=96)


def plan_of(global_batch, *, gradients=0):
    """The plan where batch B takes 100 + 7 B of 500 MiB (57 fit), and `gradients` more with accumulation."""
    asked = []

    def run(request, *, on_progress=None):
        work = request.arguments["workload"]
        asked.append((work["batch"], work["n_accumulate"]))
        peak = (100 + 7 * work["batch"] + (gradients if work["n_accumulate"] > 1 else 0)) * MIB
        if peak <= request.limit_bytes:
            return ProbeOutcome(outcome="ok", result={}, peak_bytes=peak, wall_s=1.0)
        return ProbeOutcome(outcome="oom", failure="cpu-allocator", error="no", wall_s=0.5)

    request = FitRequest(spec=SPEC, workload=Workload(seq_len=48, phase="train"), limit=given_limit(500 * MIB))
    series = ProbeSeries(run=run)
    result = fit_batch(request, series, predict=lambda batch: (100 + 7 * batch) * MIB)
    before = len(asked)
    return with_plan(result, request, global_batch, series).details["plan"], asked[before:]


@pytest.mark.parametrize(
    ("global_batch", "micro", "steps"),
    [(96, 48, 2), (110, 55, 2), (59, 1, 59), (513, 57, 9), (10**18, 50, 2 * 10**16)],  # the last one in no time
)
def test_the_micro_batch_is_the_largest_divisor_that_fits(global_batch, micro, steps):
    """57 fit; the product is the global batch to the sequence, also for a prime."""
    plan, asked = plan_of(global_batch)
    assert plan == {"global_batch": global_batch, "micro_batch": micro, "n_accumulate": steps, "verified": True}
    assert asked == [(micro, 2)]  # two micro-batches show the peak of any number


def test_a_global_batch_that_fits_whole_needs_no_accumulation_and_no_probe_of_its_own():
    """57 of 57: it was run by the search."""
    plan, asked = plan_of(57, gradients=300)
    assert (plan["micro_batch"], plan["n_accumulate"], asked) == (57, 1, [])


def test_gradients_that_stay_alive_make_the_micro_batch_smaller():
    """100 + 7 B + 90 MiB: 48 does not run, 32 does (414 MiB)."""
    plan, asked = plan_of(96, gradients=90)
    assert (plan["micro_batch"], plan["n_accumulate"], plan["verified"]) == (32, 3, True)
    assert asked == [(48, 2), (32, 2)]


def test_where_no_divisor_fits_the_plan_has_none():
    """Beside 400 MiB of gradients not even 1."""
    plan, _ = plan_of(6, gradients=0)
    assert plan["micro_batch"] == 6
    plan, _ = plan_of(118, gradients=400)
    assert (plan["micro_batch"], plan["n_accumulate"], plan["verified"]) == (None, None, False)


@pytest.mark.parametrize(
    ("text", "amount"), [("5%", 0.05), ("512MiB", 512 * MIB), ("0%", 0.0), ("12.5 %", 0.125), ("1GiB", 1 << 30)]
)
def test_a_headroom_is_a_share_or_an_amount(text, amount):
    """Both as they are said."""
    assert parse_headroom(text) == Headroom(amount=amount)


@pytest.mark.parametrize("text", ["100%", "-1%", "nan%", "five%", "5 percent", ""])
def test_a_headroom_that_is_none_is_refused(text):
    """Exit code 2."""
    with pytest.raises(InputError):
        parse_headroom(text)


def test_a_headroom_comes_off_the_limit_and_is_named():
    """5 % of 2000 MiB leave 1900; of what is free it takes the place of the usual one."""
    limit = given_limit(2000 * MIB, Headroom(amount=0.05))
    assert limit.limit_bytes == 1900 * MIB
    assert "less a headroom of 100.0 MiB" in limit.source
    assert less_headroom("cpu", 10_000 * MIB, Headroom(amount=7 * MIB)).limit_bytes == 9_993 * MIB
    with pytest.raises(InputError, match="leaves nothing"):
        given_limit(100, Headroom(amount=100))


PREDICT = ("fit", "gpt-small", "--predict-only", "--seq", "64", "--limit", "8GiB", "--device", "cpu", "--dtype", "fp32")


def test_the_plan_and_the_headroom_stand_in_the_terminal():
    """A prediction is called one."""
    command = [sys.executable, "-m", "flopwatch", *PREDICT, "--headroom", "10%", "--global-batch", "512"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "less a headroom of" in text
    assert "Global batch 512 = " in text
    assert "predicted" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--global-batch", "0"), "a global batch of 0"),
        (("--global-batch", "8", "--phase", "forward"), "--global-batch has no meaning in phase forward"),
        (("--global-batch", "8", "--accumulate", "2"), "exclude each other"),
        (("--headroom", "100%"), "--headroom 100% leaves nothing"),
        (("--headroom", "five%"), "--headroom: 'five%' is no share"),
        (("--headroom", "lots"), "--headroom: 'lots' is not a size in bytes; write it like 5% or 512MiB"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(arguments, said):
    """Exit code 2, before anything runs."""
    done = subprocess.run([sys.executable, "-m", "flopwatch", *PREDICT, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr
