"""bench and fit of the user's own code: its FLOPs, its loss, its memory, and what it cannot be asked."""

import json
import subprocess
import sys

import jsonschema
import pytest
import torch

from flopwatch.api.own import OwnWork
from flopwatch.api.own_child import own_work
from flopwatch.cli import run
from flopwatch.errors import InputError
from flopwatch.model.own import OwnModel, own_model
from flopwatch.probe.tensor_peak import tensor_peak
from flopwatch.record import json_schema
from flopwatch.reference.own import build_own_step
from flopwatch.workload import Workload

CODE = """
import types

import torch
from torch import nn


def mlp(batch, width=8):
    return nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, 3)), torch.randn(batch, width)


class Tagger(nn.Module):
    def __init__(self, with_loss):
        super().__init__()
        self.table = nn.Embedding(53, 24)
        self.body = nn.Linear(24, 24)
        self.head = nn.Linear(24, 19)
        self.with_loss = with_loss

    def forward(self, ids):
        logits = self.head(torch.tanh(self.body(self.table(ids))))
        return types.SimpleNamespace(loss=logits.square().mean(), logits=logits) if self.with_loss else logits


def tagger(with_loss=False):
    return Tagger(with_loss)


def convolutions(batch):
    layers = [nn.Conv2d(3, 20, 3), nn.ReLU(), nn.BatchNorm2d(20), nn.Conv2d(20, 31, 3), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(31 * 9 * 9, 7)), torch.randn(batch, 3, 13, 13)


class Recurrent(nn.LSTM):
    def forward(self, x):
        return super().forward(x)[0]


def recurrent(batch):
    return Recurrent(5, 7, batch_first=True), torch.randn(batch, 11, 5)


class Reader(nn.Linear):
    def forward(self, x):
        return super().forward(x) * (2 if x.sum().item() > 0 else 3)


def reader(batch):
    return Reader(24, 24), torch.randn(batch, 24)


def fixed():
    return nn.Linear(24, 5), torch.randn(6, 24)


def rows(batch):
    return nn.Linear(24, 5), torch.randn(2 * batch, 24)


def short(batch, seq_len):
    return Tagger(False), torch.zeros(batch, seq_len - 1, dtype=torch.int64)


def frozen(batch):
    return nn.Linear(24, 5).requires_grad_(False), torch.randn(batch, 24)


def broken(batch):
    return nn.Linear(24, 5), torch.randn(batch, 23)


def mixed(batch):
    return nn.Sequential(nn.Linear(24, 24), nn.LayerNorm(24)).bfloat16(), torch.randn(batch, 24).bfloat16()
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder of a user's, with a module in it, as the current one."""
    (tmp_path / "my_code.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("FLOPWATCH_STORE", str(tmp_path / "runs.sqlite"))
    monkeypatch.delitem(sys.modules, "my_code", raising=False)
    return tmp_path


def asked(factory, *, wanted="work", keep_dtype=True, changes=None, is_inside=True, **work):
    workload = Workload(**({"seq_len": 7} | work))
    own = OwnModel(factory=f"my_code:{factory}", changes=changes or {}, folder=".")
    arguments = {"own": own.to_dict(), "workload": workload.to_dict(), "wanted": wanted, "keep_dtype": keep_dtype}
    return OwnWork(**own_work(arguments | {"is_inside": is_inside}))


def test_the_flops_of_a_forward_and_a_training_step_are_those_by_hand(home):
    """Linear 8 -> 32 -> 3 on 5 rows; backward: both weights, and one input, as nobody asks for that of the data."""
    forward = 2 * 5 * (8 * 32 + 32 * 3)
    assert asked("mlp", batch=5).model_flops == {"fp32": forward}
    found = asked("mlp", batch=5, phase="train", n_accumulate=3)
    assert found.model_flops == {"fp32": 3 * (2 * forward + 2 * 5 * 32 * 3)}
    assert found.hardware_flops == found.model_flops
    assert (found.batch, found.seq_len, found.unit) == (5, 1, "samples")
    assert found.n_params == 8 * 32 + 32 + 32 * 3 + 3


def test_set_is_given_to_the_factory_as_arguments(home):
    """mlp(width=16): 16 -> 64 -> 3."""
    assert asked("mlp", batch=5, changes={"width": "16"}).model_flops == {"fp32": 2 * 5 * (16 * 64 + 64 * 3)}


def test_backward_starts_from_the_models_own_loss_else_from_its_logits_else_from_the_sum(home):
    """And --loss sum is the sum whatever the model gives. Tokens are [batch, seq] of ids."""
    found = asked("tagger", batch=3, phase="train")
    assert (found.loss, found.batch, found.seq_len, found.unit) == ("cross-entropy", 3, 7, "tokens")
    assert asked("tagger", batch=3, phase="train", changes={"with_loss": "True"}).loss == "own"
    assert asked("mlp", batch=3, phase="train").loss == "sum"
    assert asked("tagger", batch=3, phase="train", loss="sum").loss == "sum"


@pytest.mark.parametrize(("factory", "has"), [("convolutions", True), ("recurrent", True), ("mlp", False)])
def test_what_cudnn_may_run_in_tf32_is_found_unless_the_code_forbids_it(home, monkeypatch, factory, has):
    """torch allows it by default, for convolutions and recurrent layers in fp32 alone."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert asked(factory, batch=2).lets_cudnn_use_tf32 is has
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert not asked(factory, batch=2).lets_cudnn_use_tf32


def test_a_loss_that_nobody_asked_for_is_said(home):
    """The sum of the output is no loss that anybody trains with."""
    work = Workload(batch=3, phase="train")
    (said,) = [note for note in asked("mlp", batch=3, phase="train").step_work(work).notes if "sum" in note]
    assert "backward starts from the sum of the output" in said
    assert not [note for note in asked("tagger", batch=3, phase="train").step_work(work).notes if "sum" in note]


@pytest.mark.parametrize("factory", ["mlp", "tagger", "convolutions"])
@pytest.mark.parametrize("phase", ["forward", "train"])
def test_the_predicted_peak_of_any_batch_is_that_of_a_real_step(home, factory, phase):
    """Against the memory events of torch's profiler, of the model and two steps: within 2 percent or a page.

    On one thread it is a percent; on two a convolution's kernel takes 44 KiB more from some batch between 23 and 59 on.
    """
    found = asked(factory, wanted="lines", phase=phase)
    assert found.no_prediction is None
    for batch in (1, 2, 23, 59):
        work = Workload(batch=batch, seq_len=7, phase=phase)
        with tensor_peak() as counted:
            step = build_own_step(own_model(f"my_code:{factory}"), work)
            step()
            step()
        assert found.peak_bytes(batch) == pytest.approx(counted.peak_bytes, rel=0.02, abs=4096)
        del step


def test_a_convolution_that_could_not_be_run_alone_is_said_wherever_a_peak_is_predicted(home):
    """A CPU's kernels copy into layouts of their own, which no run without data sees: the prediction is too low."""
    for wanted in ("work", "lines"):
        found = asked("convolutions", batch=23, phase="train", wanted=wanted, is_inside=False)
        (said,) = [note for note in found.notes if "convolution" in note]
        assert said.startswith("aten.convolution, aten.convolution_backward")
        assert "too low" in said
        assert not asked("convolutions", batch=23, phase="train", wanted=wanted).notes
        assert not asked("tagger", batch=23, phase="train", wanted=wanted, is_inside=False).notes


def test_the_parts_of_the_peak_are_weights_and_what_else_there_is(home):
    """AdamW in fp32: two moments a parameter."""
    found = asked("mlp", batch=5, phase="train")
    n_params = 8 * 32 + 32 + 32 * 3 + 3
    assert found.predicted_parts["weights"] == 4 * n_params
    assert found.predicted_parts["optimizer"] == 2 * 4 * n_params


def test_code_that_reads_values_is_counted_by_a_real_run_and_not_predicted(home):
    """A value that is read needs data: the FLOPs are still right, and why memory is not known is said."""
    found = asked("reader", batch=5)
    assert found.model_flops == {"fp32": 2 * 5 * 24 * 24}
    assert found.predicted_parts is None
    assert "my_code.py" in found.no_prediction
    assert asked("reader", wanted="lines").peak_bytes(5) is None


def test_the_dtype_is_the_one_of_the_weights_unless_another_is_asked_for(home):
    """bf16 weights stay; with a dtype of its own the module and its inputs are converted."""
    assert asked("mixed", batch=5).dtype == "bf16"
    assert asked("mixed", batch=5).model_flops == {"bf16": 2 * 5 * 24 * 24}
    assert asked("mixed", batch=5, keep_dtype=False, dtype="fp32").model_flops == {"fp32": 2 * 5 * 24 * 24}


def test_under_autocast_the_weights_stay_and_the_matmuls_do_not(home):
    """FLOPs stand under the dtype that they run in."""
    found = asked("mlp", batch=5, dtype="bf16", precision="autocast")
    assert found.model_flops == {"bf16": 2 * 5 * (8 * 32 + 32 * 3)}


@pytest.mark.parametrize(
    ("factory", "work", "says"),
    [
        ("rows", {"batch": 5}, "made inputs of 10 rows for a batch of 5"),
        ("fixed", {"batch": 5}, "brings inputs of batch 6, so that batch 5 cannot be made"),
        ("short", {"batch": 5, "seq_len": 9}, "made inputs of 8 tokens for a seq_len of 9"),
        ("frozen", {"batch": 5, "phase": "train"}, "needs a gradient"),
    ],
)
def test_inputs_of_another_size_than_asked_for_are_refused(home, factory, work, says):
    """A wrong batch would be a wrong throughput."""
    with pytest.raises(InputError, match=says):
        asked(factory, **work)


def test_what_is_wrong_in_the_code_is_raised_as_it_is(home):
    """A width that does not match: torch's own words, after every way to run it was tried."""
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        asked("broken", batch=5)


def test_inputs_that_are_brought_have_one_size(home):
    """Batch 1 is what nobody has asked for."""
    found = asked("fixed")
    assert (found.batch, found.takes_batch, found.takes_seq_len) == (6, False, False)


BAD = {
    ("bench", "--phase", "decode"): "--phase decode has no meaning for a model of your own code",
    ("bench", "--recompute", "full"): "--recompute full has no meaning",
    ("bench", "--ops", "elementary"): "--ops elementary has no meaning",
    ("bench", "--convention", "palm"): "not under --convention palm",
    ("bench", "--loss", "cross-entropy"): "--loss cross-entropy cannot be promised",
    ("fit", "--attention", "math"): "--attention math has no meaning",
    ("fit", "--predict-only", "--device", "A100 SXM4 40GB", "--limit", "1GiB"): "is predicted as a CPU runs it",
}


@pytest.mark.parametrize(
    ("arguments", "says"), BAD.items(), ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_what_own_code_cannot_be_asked_is_refused_in_one_line(home, capsys, arguments, says):
    """Exit code 2, before anything of the user's is run."""
    command, *options = arguments
    assert run([command, "my_code:mlp", *options, "-q"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert says in err


def test_the_same_code_in_another_state_is_another_model(home):
    """A run is not continued with code that has changed meanwhile; an installed module has no file here."""
    before = own_model("my_code:mlp", {"width": "16"})
    assert before.name == "my_code:mlp (width=16)"
    (home / "my_code.py").write_text(CODE + "\n# changed\n")
    assert own_model("my_code:mlp", {"width": "16"}) != before
    assert own_model("torch.nn:Identity").fingerprint is None


def flopwatch(*arguments):
    return subprocess.run([sys.executable, "-m", "flopwatch", *arguments], capture_output=True, text=True)


@pytest.mark.slow
def test_bench_of_own_code_says_what_was_counted_and_measured(home):
    """Figures follow from the median and the FLOPs by hand; the predicted peak stands beside the measured one."""
    done = flopwatch("bench", "my_code:convolutions", "--batch", "9", "-o", "run.json")
    assert done.returncode == 0, done.stderr
    assert "running your code: my_code:convolutions" in done.stderr
    assert "samples/s" in done.stdout
    record = json.loads((home / "run.json").read_text())
    jsonschema.validate(record, json_schema())
    (found,) = record["results"]
    # 3 -> 20 channels at 11 x 11, 20 -> 31 at 9 x 9, then 2511 -> 7; backward twice that but for the first input
    first, second, last = 2 * 9 * 121 * 20 * 27, 2 * 9 * 81 * 31 * 180, 2 * 9 * 31 * 81 * 7
    flops = 3 * (first + second + last) - first
    assert found["model_flops_per_s"] == pytest.approx(flops / found["step_s"]["median"])
    assert found["tokens_per_s"] == pytest.approx(9 / found["step_s"]["median"])
    assert (found["batch"], found["seq_len"], found["dtype"]) == (9, 1, "fp32")
    assert found["predicted_peak_bytes"] == pytest.approx(found["peak_memory_bytes"], rel=0.01)
    assert flopwatch("bench", "my_code:fixed", "--batch", "best").returncode == 2


@pytest.mark.slow
def test_the_largest_batch_of_own_code_is_predicted_and_proved(home):
    """B ran, B + 1 did not, with few tries; the plan keeps the wanted global batch."""
    options = ["--limit", "64MiB", "--json", "--global-batch", "2048", "--seq", "37"]
    done = flopwatch("fit", "my_code:tagger", *options)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["results"]
    assert found["verified"]
    assert found["next"] == {"batch": found["batch"] + 1, "outcome": "oom", "how": "ran"}
    assert len(found["probes"]) <= 4
    plan = found["details"]["plan"]
    assert plan["micro_batch"] * plan["n_accumulate"] == 2048
    assert plan["verified"]
    predicted = flopwatch("fit", "my_code:tagger", *options, "--predict-only", "--device", "cpu", "-q")
    (said,) = json.loads(predicted.stdout)["results"]
    assert said["batch"] == pytest.approx(found["batch"], rel=0.1)
    broken = flopwatch("fit", "my_code:broken", "--limit", "64MiB")
    assert broken.returncode == 1
    assert "cannot be multiplied" in broken.stderr
    assert broken.stderr.count("\n") == 2


@pytest.mark.slow
def test_memory_of_own_code_is_told_by_part(home):
    """The command and the prediction that stands in a benchmark are one; what cannot be asked is refused."""
    options = ["memory", "my_code:mlp", "--trace", "--batch", "5"]
    done = flopwatch(*options, "--json")
    (found,) = json.loads(done.stdout)["results"]
    assert done.stderr == "running your code: my_code:mlp\n"
    assert {name: n for name, n in found["parts"].items() if n} == asked("mlp", batch=5, phase="train").predicted_parts
    for more in (["--device", "A100 SXM4 40GB"], ["--lora-rank", "4"]):
        refused = flopwatch(*options, *more)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert "as a CPU runs it" in refused.stderr
    assert flopwatch("memory", "my_code:mlp").returncode == 2
