"""`flopwatch memory` and fw.memory: the record, a card's verdict, what is refused."""

import json

import jsonschema
import pytest

import flopwatch as fw
from flopwatch.cli import run
from flopwatch.record import json_schema
from flopwatch.workload import Workload

A100 = "NVIDIA A100-SXM4-40GB"


@pytest.fixture
def said(capsys):
    """A function that runs `flopwatch memory ...` and gives exit code, stdout and stderr."""

    def call(*argv):
        code = run(["memory", *map(str, argv)])
        return code, *capsys.readouterr()

    return call


def test_the_record_has_the_parts_and_they_sum_to_the_peak(said):
    """The keys that others rely on, in a record that the schema accepts."""
    code, out, _ = said("gpt-small", "--batch", 4, "--dtype", "fp32", "--json")
    record = json.loads(out)
    jsonschema.validate(record, json_schema())
    (result,) = record["results"]
    assert code == 0
    assert result["peak_bytes"] == pytest.approx(6552.71 * 2**20, rel=0.01)  # the anchor
    assert set(result["parts"]) == {
        "weights", "gradients", "optimizer", "activations", "logits", "temporary", "reserved", "context",
    }  # fmt: skip
    assert sum(result["parts"].values()) == result["peak_bytes"]
    assert result["assumptions"]
    assert max(point["alive_bytes"] for point in result["details"]["timeline"]) == result["peak_bytes"]


def test_what_kernels_take_for_themselves_is_said_where_it_is(said):
    """bf16 matmuls of a CPU have buffers that no run without data sees; fp32 and a card's are not that."""
    left_out = [
        any("buffers inside matmul kernels" in line for line in json.loads(out)["results"][0]["assumptions"])
        for _, out, _ in (
            said("gpt-small", "--json", "--dtype", "bf16"),
            said("gpt-small", "--json", "--dtype", "fp32"),
            said("gpt-small", "--json", "--dtype", "bf16", "--device", A100),
        )
    ]
    assert left_out == [True, False, False]


def test_a_card_says_whether_the_step_fits_and_what_is_left(said):
    """gpt-xl in bf16 at batch 4 takes 21 GiB of 40."""
    code, out, _ = said("gpt-xl", "--batch", 4, "--device", A100, "--json")
    (result,) = json.loads(out)["results"]
    verdict = result["details"]["device"]
    assert code == 0
    assert verdict["fits"] is True
    assert verdict["margin_bytes"] == 40 * 2**30 - result["peak_bytes"]
    assert result["parts"]["reserved"] > 0


def test_a_step_that_does_not_fit_is_shown_and_ends_with_3(said):
    """The answer is on stdout, the reason on stderr."""
    code, out, err = said("gpt-xl", "--batch", 16, "--device", A100)
    assert code == 3
    assert "does not fit" in out
    assert err.startswith("flopwatch: gpt-xl needs ")
    assert "of 40.00 GiB on A100 SXM4 40GB" in err


def test_a_limit_is_what_the_allocator_may_reserve(said):
    """The same step in 24 GiB fits, in 12 GiB it does not."""
    assert said("gpt-xl", "--batch", 4, "--device", A100, "--limit", "24GiB")[0] == 0
    assert said("gpt-xl", "--batch", 4, "--device", A100, "--limit", "12GiB")[0] == 3


def test_the_largest_tensors_are_named_with_their_operator(said):
    """What a user wants to read: two gradients of the logits and the log-softmax."""
    _, out, _ = said("gpt-small", "--batch", 4, "--dtype", "fp32")
    assert "785.3 MiB" in out
    assert "log_softmax_backward" in out
    assert "backward, in log_softmax_backward of loss" in out


def test_decode_names_its_cache(said):
    """16 sequences of 8192 tokens, 2 x 32 layers x 8 heads x 128 in bf16: 16 GiB."""
    _, out, _ = said("llama-3.1-8b", "--phase", "decode", "--batch", 16, "--seq", "8k")
    assert "16.00 GiB, within activations" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--limit", "8GiB"], "a limit needs a device whose allocator it limits"),
        (["--trace", "--device", A100], "a trace is of the reference network as a CPU runs it"),
        (["--trace", "--lora-rank", "8"], "a trace is of the reference network as a CPU runs it"),
        (["--phase", "forward", "--optimizer", "sgd"], "--optimizer sgd has no meaning in phase forward"),
        (["--lora-rank", "0"], "--lora-rank 0 is no adapter"),
        (["--device", "A100 SXM4 40GB", "--limit", "0"], "a limit of 0 bytes leaves nothing"),
        (["--phase", "forward", "--lora-rank", "4"], "--lora-rank 4 has no meaning in phase forward"),
        (["--optimizer", "sgd", "--adamw", "fused"], "--adamw fused contradicts --optimizer sgd"),
        (["--seq", "2k"], "seq_len=2048 is longer than the context of gpt-small, 1024"),
        (["--precision", "autocast", "--dtype", "fp32"], "precision=autocast does not cast to dtype=fp32"),
        (["--dtype", "int8"], "dtype=int8 in phase train has no one meaning"),
        (["--train-only", "heads"], "train_only=heads is no module of gpt-small"),
    ],
)
def test_what_contradicts_itself_is_refused_in_one_line(said, argv, message):
    """Exit code 2, nothing on stdout."""
    code, out, err = said("gpt-small", *argv)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_trace_gives_the_closed_forms_peak():
    """fw.memory both ways; the traced result says so."""
    work = Workload(batch=3, seq_len=77, phase="train")
    spec = fw.ModelSpec(n_layers=2, d_model=96, n_heads=6, vocab_size=1501, max_seq_len=77)
    traced, closed = fw.memory(spec, work, trace=True), fw.memory(spec, work)
    assert (traced.source, closed.source) == ("trace", "closed-form")
    assert traced.peak_bytes == pytest.approx(closed.peak_bytes, rel=1e-5)


def test_a_library_call_prints_nothing(capsys):
    """Only the command line prints."""
    fw.memory("gpt-small", Workload(phase="prefill"))
    assert capsys.readouterr() == ("", "")
