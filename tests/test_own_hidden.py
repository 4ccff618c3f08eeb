"""What operators allocate inside their kernels is in the predicted peak of code of the user's, or is said by name."""

import json
import subprocess
import sys
import types

import pytest
import torch

import flopwatch as fw
from flopwatch.api.own import OwnWork, own_work
from flopwatch.api.own_child import own_memory
from flopwatch.api.own_child import own_work as work_of
from flopwatch.measure.series import ProbeSeries
from flopwatch.model.own import OwnModel
from flopwatch.probe.protocol import ProbeOutcome
from flopwatch.probe.tensor_peak import tensor_peak
from flopwatch.reference.own import build_own_step
from flopwatch.workload import Workload
from own_networks import NETWORKS

BATCH = 29
FAST = {"cnn"}
UNKNOWN = {  # network -> the operators that are said, and the side on which the prediction may be
    "bags": ("aten._embedding_bag", "too low"),
    "cumprods": ("cumprod", "too high"),
    "own_operator": ("seldom.doubled", "too low"),
}


def arguments_of(name, *, phase, n_accumulate=1, **more):
    own = OwnModel(factory=f"own_networks:{name}", folder=".")
    work = Workload(batch=BATCH, seq_len=23, phase=phase, n_accumulate=n_accumulate)
    return {"own": own.to_dict(), "workload": work.to_dict(), "keep_dtype": True, "is_inside": True, **more}


def real_peak(name, found, **more):
    """By the memory events of torch's profiler, of the network and two steps."""
    own = OwnModel(factory=f"own_networks:{name}", folder=".")
    fields = {key: found[key] for key in ("batch", "seq_len", "phase")}
    work = Workload(**fields, dtype=found["details"]["dtype"], **more)
    with tensor_peak() as counted:
        step = build_own_step(own, work)
        step()
        step()
    del step
    return counted.peak_bytes


@pytest.mark.parametrize("phase", ["forward", "train"])
@pytest.mark.parametrize(
    "name",
    [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS if n not in UNKNOWN],
)
def test_the_predicted_peak_of_any_kind_of_network_is_the_real_one(name, phase):
    """To 0.1 % or a page: layouts of oneDNN, workspaces of an LSTM, casts, copies for a matmul, packed weights."""
    found = own_memory(arguments_of(name, phase=phase))
    assert found["details"]["notes"] == []
    assert found["peak_bytes"] == pytest.approx(real_peak(name, found), rel=0.001, abs=4096)


@pytest.mark.parametrize("name", ["graph", "choices"])
def test_a_backward_that_torch_writes_in_place_is_predicted_so(name):
    """Indexing, index_select, topk: tensors that are not plain would get a second tensor for each gradient."""
    found = own_memory(arguments_of(name, phase="train", n_accumulate=3))
    assert found["peak_bytes"] == pytest.approx(real_peak(name, found, n_accumulate=3), rel=0.001, abs=1024)


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_known_is_said_by_name_with_its_side(name):
    """What depends on values, what runs another way, and what is not torch's own."""
    (said,) = own_memory(arguments_of(name, phase="train"))["details"]["notes"]
    op, side = UNKNOWN[name]
    assert op in said
    assert side in said


def test_a_module_that_takes_more_to_make_than_to_run_is_said():
    """It is made in fp32 and run in bf16: what is measured from the start on is not the peak of the steps."""
    arguments = arguments_of("autoencoder", phase="forward", keep_dtype=False)
    arguments["workload"] |= {"dtype": "bf16"}
    assert any("making the module" in note for note in own_memory(arguments)["details"]["notes"])
    arguments["workload"] |= {"phase": "train"}
    assert own_memory(arguments)["details"]["notes"] == []


def test_without_the_tries_a_peak_is_too_low_and_the_operator_is_named():
    """An LSTM of oneDNN keeps a workspace: more than half of the peak."""
    found = own_memory(arguments_of("lstm", phase="train", is_inside=False))
    assert found["peak_bytes"] < 0.5 * real_peak("lstm", found)
    (said,) = found["details"]["notes"]
    assert said.startswith("aten.mkldnn_rnn_layer, aten.mkldnn_rnn_layer_backward: ")
    assert "too low" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "lstm", "unet"])
def test_any_batch_is_predicted_from_lines_with_what_kernels_take(name):
    """Against a real run at batches that no line went through."""
    found = OwnWork(**work_of(arguments_of(name, phase="train", wanted="lines")))
    assert (found.no_prediction, found.notes) == (None, [])
    for batch in (1, 11, 64):
        where = {"batch": batch, "seq_len": 23, "phase": "train", "details": {"dtype": "fp32"}}
        assert found.peak_bytes(batch) == pytest.approx(real_peak(name, where), rel=0.01, abs=4096)


@pytest.mark.slow
def test_operators_too_large_to_be_tried_are_known_from_smaller_batches(monkeypatch):
    """As if a call of 12 MiB were too much: at batch 71 the convolutions are, at batches up to 16 they are not."""
    arguments = arguments_of("unet", phase="train")
    arguments["workload"] |= {"batch": 71}
    exact = own_memory(arguments)["peak_bytes"]
    monkeypatch.setattr("flopwatch.api.own_hidden._MOST_BYTES", 12 << 20)
    found = own_memory(arguments)
    assert found["details"]["notes"] == []
    assert (found["batch"], found["details"]["at"]["op"]) == (71, "aten.convolution_backward")
    assert found["peak_bytes"] == pytest.approx(exact, rel=0.005)
    monkeypatch.setattr("flopwatch.api.own_hidden._MOST_BYTES", 1 << 10)
    assert any("aten.convolution" in note for note in own_memory(arguments)["details"]["notes"])


def test_a_trace_of_a_users_step_says_which_kernels_take_more_than_its_memory_shows():
    """fw.trace runs nothing twice: a note names the operators; FLOPs alone have none."""
    network, (images,) = NETWORKS["cnn"](3)
    (said,) = fw.trace(lambda: network(images).sum().backward(), model=network).notes
    assert said.startswith("aten.convolution, aten.convolution_backward, aten.native_batch_norm_backward: ")
    assert "too low" in said
    assert not fw.trace(lambda: network(images), model=network, memory_events=False).notes
    linear = torch.nn.Linear(3, 5)
    assert not fw.trace(lambda: linear(torch.ones(2, 3))).notes


def test_an_operator_that_kills_the_process_when_it_runs_alone_costs_the_inside_only():
    """The question is put again, without trying operators."""
    asked = []

    def run(request, *, on_progress=None):
        asked.append(request.arguments["is_inside"])
        if asked[-1]:
            return ProbeOutcome(outcome="crashed", failure="SIGSEGV", error="it died", wall_s=0.1)
        facts = {"takes_batch": True, "takes_seq_len": True, "batch": 1, "seq_len": 7, "unit": "tokens"}
        return ProbeOutcome(outcome="ok", result={**facts, "dtype": "fp32", "n_params": 1}, wall_s=0.1)

    own = OwnModel(factory="own_networks:cnn", folder=".")
    assert own_work(own, Workload(), ProbeSeries(run=run), wanted="work").seq_len == 7
    assert asked == [True, False]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["memory", "my_bags:bags", "--trace", "--phase", "train", "--batch", "9"],
        ["fit", "my_bags:bags", "--predict-only", "--limit", "64MiB", "--device", "cpu"],
        ["fit", "my_bags:bags", "--limit", "64MiB"],
        ["bench", "my_bags:bags", "--batch", "9", "--phase", "train"],
    ],
    ids=lambda value: " ".join(value[:4]),
)
def test_what_a_prediction_leaves_out_is_in_the_record_and_on_the_terminal(tmp_path, command):
    """Wherever a peak of the user's code is predicted."""
    code = (
        "import torch\nfrom torch import nn\n\n\ndef bags(batch):\n    tables = nn.EmbeddingBag(101, 64, mode='sum')\n"
    )
    (tmp_path / "my_bags.py").write_text(code + "    return tables, torch.zeros(batch, 20, dtype=torch.int64)\n")
    base = [sys.executable, "-m", "flopwatch", *command, "-o", "out.json"]
    done = subprocess.run(base, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "aten._embedding_bag" in done.stdout + done.stderr
    record = json.loads((tmp_path / "out.json").read_text())
    said = [*record["warnings"], *record["results"][0]["details"]["notes"]]
    assert any("aten._embedding_bag" in note and "too low" in note for note in said)


def test_what_was_measured_is_an_assumption_of_the_answer():
    """A reader sees what the figure rests on."""
    found = types.SimpleNamespace(**own_memory(arguments_of("cnn", phase="forward")))
    assert any("run once, alone" in text for text in found.assumptions)
    # Where the peak is hangs on what the CPU's convolution kernels take inside: less with AVX2 than with AVX-512.
    assert found.details["at"]["op"] in {"aten.convolution", "aten.native_batch_norm"}
