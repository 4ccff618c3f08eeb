"""Decoding: FLOPs and bytes of a token by hand, the share of a bandwidth, and what makes it no measure."""

import json
import subprocess
import sys

import jsonschema
import msgspec
import pytest

from flopwatch.compare.bench import work_of
from flopwatch.compare.decode import BandwidthCeiling, decode_bytes, decode_figures, decode_warnings, experts_note
from flopwatch.cost.convention import find_convention
from flopwatch.model.load import load_spec
from flopwatch.model.spec import ModelSpec, MoESpec
from flopwatch.record import json_schema
from flopwatch.workload import Workload

SPEC = ModelSpec(name="odd", n_layers=2, d_model=44, n_heads=4, vocab_size=701, max_seq_len=80)
MATMULS = 2 * 12 * 44**2 + 44 * 701  # weights of 2 layers (4 D^2 attention, 8 D^2 FFN) and the head


def figures(step_s=0.5, bandwidth=1e6, **changes):
    work = Workload(phase="decode", batch=3, seq_len=61, dtype="fp32", **changes)
    ceilings = [
        BandwidthCeiling(kind="datasheet", reason="none is known"),
        BandwidthCeiling(kind="measured", bytes_per_s=bandwidth, source="a test"),
    ]
    return decode_figures(SPEC, work, step_s=step_s, ceilings=ceilings)


def test_flops_and_bytes_of_a_token_are_the_closed_form():
    """2 FLOPs a weight and 4 T D a layer; the weights once a step, 2 T D of keys and values a layer and sequence."""
    found = figures()
    assert found.flops_per_token == 2 * MATMULS + 2 * 4 * 61 * 44
    assert found.weights_bytes == 4 * MATMULS
    assert found.kv_bytes == 4 * 3 * 2 * (2 * 61 * 44)
    assert found.bytes_per_token == pytest.approx((found.weights_bytes + found.kv_bytes) / 3)
    assert found.time_per_token_s == 0.5


def test_bandwidth_utilization_is_bytes_over_time_over_bandwidth():
    """And n/a keeps its reason."""
    unknown, measured = figures().utilization
    n_bytes = 4 * MATMULS + 4 * 3 * 2 * (2 * 61 * 44)
    assert measured.fraction == pytest.approx(n_bytes / 0.5 / 1e6)
    assert (unknown.fraction, unknown.reason) == (None, "none is known")


def test_grouped_keys_are_read_once_a_group():
    """Llama-3.1-8B at 8192 keys in bf16: 32 layers x 2 x 8 heads x 128 x 2 bytes = 131072 bytes a key."""
    found = decode_bytes(load_spec("llama-3.1-8b"), Workload(phase="decode", batch=5, seq_len=8192, dtype="bf16"))
    assert found.kv_bytes == 5 * 8192 * 131072
    # 8 030 261 248 published parameters less the token table (128256 x 4096) and 65 norms of 4096
    assert found.weights_bytes == 2 * (8_030_261_248 - 128_256 * 4096 - 65 * 4096)


def test_a_share_above_all_and_bytes_that_a_cache_holds_are_warned_about():
    """MBU then says nothing about memory."""
    assert "above 100 %" in decode_warnings(figures(bandwidth=1e5), cache_bytes=0)[0]
    assert "can hold" in decode_warnings(figures(), cache_bytes=1 << 20)[0]
    assert decode_warnings(figures(bandwidth=1e7), cache_bytes=1000) == []


@pytest.mark.parametrize(("batch", "said"), [(1, None), (3, "6 of 8"), (5, "8 of 8")])
def test_experts_that_tokens_may_share_make_the_bytes_a_guess_which_is_said(batch, said):
    """Two of 8 for each token: one token reads 2, three tokens 2 to 6, five 2 to 8."""
    spec = msgspec.structs.replace(SPEC, moe=MoESpec(n_experts=8, experts_per_token=2, d_ff_expert=20))
    notes = experts_note(spec, Workload(phase="decode", batch=batch, seq_len=61))
    assert len(notes) == (0 if said is None else 1)
    assert all(f"{said} in each layer" in note and "2 is the least" in note for note in notes)
    assert experts_note(SPEC, Workload(phase="decode", batch=batch, seq_len=61)) == []


@pytest.mark.parametrize(("convention", "is_said"), [("matmul", True), ("palm", True), ("matmul-window-exact", False)])
def test_keys_outside_of_a_window_that_are_counted_are_a_note(convention, is_said):
    """Of 61 keys a window of 16 leaves 16; a window that nothing reaches is no note."""
    windowed = msgspec.structs.replace(SPEC, window=16, window_pattern="L")
    rule = find_convention(convention)
    notes = work_of(windowed, Workload(phase="decode", seq_len=61), rule).notes
    assert [note.startswith(f"{convention} counts all 61 keys in the 2 layers that see only 16") for note in notes] == (
        [True] if is_said else []
    )
    assert work_of(windowed, Workload(phase="decode", seq_len=16), rule).notes == []


def test_bytes_that_are_not_known_have_a_reason():
    """Autocast casts weights as it goes: no closed form."""
    found = figures(precision="autocast")
    assert found.bytes_per_token is None
    assert "precision=autocast" in found.reason
    assert found.utilization == []


@pytest.mark.slow
def test_a_decoding_step_is_timed_and_its_figures_follow(tmp_path, monkeypatch):
    """Tokens/s is the batch over the step; FLOP/s is what a token costs times that; text and record show both."""
    fields = 'name = "odd"\nn_layers = 2\nd_model = 44\nn_heads = 4\nvocab_size = 701\nmax_seq_len = 80\n'
    (tmp_path / "odd.toml").write_text(fields)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "flopwatch", "bench", "odd.toml", "--batch", "3", "--seq", "61"]
    command += ["--dtype", "fp32", "--phase", "decode", "--store", str(tmp_path / "runs.sqlite")]
    done = subprocess.run([*command, "-o", "run.json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run.json").read_text())
    jsonschema.validate(record, json_schema())
    (found,) = record["results"]
    step_s = found["step_s"]["median"]
    assert found["tokens_per_s"] == pytest.approx(3 / step_s)
    assert found["model_flops_per_s"] == pytest.approx(3 * (2 * MATMULS + 2 * 4 * 61 * 44) / step_s)
    assert found["decode"]["time_per_token_s"] == step_s
    measured = next(row for row in found["decode"]["utilization"] if row["bandwidth_kind"] == "measured")
    n_bytes = 4 * MATMULS + 4 * 3 * 2 * (2 * 61 * 44)
    assert measured["fraction"] == pytest.approx(n_bytes / step_s / measured["bandwidth_bytes_per_s"])
    assert "61 keys each" in done.stdout
    assert "MBU" in done.stdout
