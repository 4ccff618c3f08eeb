"""`count --trace`, `--reconcile`, `--strict`: the real module beside the closed form, and modules of a user's own."""

import json

import pytest
import torch
from torch import nn

import flopwatch as fw
from flopwatch.cli import run
from flopwatch.errors import InputError

FACTORIES = """
import torch
from torch import nn


def mlp(batch=1, width=8):
    return nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, 3)), torch.zeros(batch, width)


class Bigram(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.head = nn.Linear(8, 11)

    def forward(self, ids):
        return self.head(self.table(ids))


def bigram():
    return Bigram()


class Odd(nn.Module):
    def forward(self, x):
        return torch.linalg.matrix_exp(x)


def odd():
    return Odd(), (torch.zeros(5, 5),)


number = 3
linear = nn.Linear(8, 3)


def nothing():
    return 7
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    """A folder of a user's, with a module in it, as the current one."""
    (tmp_path / "my_models.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_models", raising=False)
    return tmp_path


def _results(capsys, *argv):
    assert run([*argv, "--json", "-q"]) == 0
    return json.loads(capsys.readouterr().out)["results"]


def test_the_traced_gpts_have_the_exact_flops_of_the_closed_form(capsys):
    """The four models of the notebook, forward at 2 x 1024, every operator of the real module counted."""
    results = _results(capsys, "count", "gpt-small", "gpt-medium", "gpt-large", "gpt-xl", "--batch", "2", "--trace")
    totals = [result["flops"]["total"] for result in results]
    assert totals == [583_296_614_400, 1_653_902_147_584, 3_549_141_401_600, 7_013_407_129_600]
    assert [r["params"]["total"] for r in results] == [163_037_184, 406_286_336, 838_359_040, 1_638_022_400]
    for result in results:
        assert result["source"] == "trace"
        assert sum(row["forward"] for row in result["modules"].values()) == result["flops"]["forward"]
        assert sum(row.get("forward", 0) for row in result["operators"]) == result["flops"]["forward"]


@pytest.mark.parametrize("ops", ["elementary", "fused"])
def test_a_checkpointed_training_step_is_reconciled_to_the_integer(ops, capsys):
    """Forward, backward and recompute of the trace are those of the closed form, term by term."""
    (result,) = _results(
        capsys, "count", "gpt-small", "--phase", "train", "--recompute", "full", "--reconcile", "--ops", ops
    )
    assert result["details"]["reconcile"]["is_exact"]
    assert result["flops"]["recompute"] > 0


def test_a_transformers_model_is_built_from_its_config_and_reconciled(tmp_path, capsys):
    """Parameters and FLOPs of transformers' own module, without weights."""
    pytest.importorskip("transformers")
    config = {
        "model_type": "llama",
        "vocab_size": 101,
        "hidden_size": 48,
        "intermediate_size": 92,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (result,) = _results(capsys, "count", str(tmp_path), "--reconcile", "--seq", "17", "--batch", "3")
    assert result["details"]["reconcile"]["is_exact"]
    # q, out: 48x48; k, v: 48x16; three of 48x92; head 48x101; scores and values over 48 query columns.
    per_row = 3 * (2 * 48 * 48 + 2 * 48 * 16 + 3 * 48 * 92) + 48 * 101
    assert result["flops"]["total"] == 2 * 3 * 17 * per_row + 4 * 3 * 17 * 17 * 48 * 3


LLAMA = {"model_type": "llama", "vocab_size": 211, "hidden_size": 48, "num_hidden_layers": 2}
LLAMA |= {"num_attention_heads": 6, "intermediate_size": 100, "max_position_embeddings": 40}


def test_a_config_of_any_name_is_the_one_that_is_traced(tmp_path, capsys):
    """Not the config.json that lies beside it; without --seq over its whole context."""
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    other = tmp_path / "other.json"
    other.write_text(json.dumps(LLAMA | {"hidden_size": 96}))
    (traced,) = _results(capsys, "count", str(other), "--trace")
    (closed,) = _results(capsys, "count", str(other))
    assert traced["flops"]["total"] == closed["flops"]["total"]
    assert traced["params"]["total"] == closed["params"]["total"]
    assert traced["seq_len"] == 40


def test_a_type_without_a_closed_form_is_traced_as_transformers_builds_it(tmp_path, capsys):
    """`count --trace` is the way out that the refusal names, so it must not be refused as well."""
    pytest.importorskip("transformers")
    config = {"model_type": "codegen", "vocab_size": 211, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 40}
    (tmp_path / "config.json").write_text(json.dumps(config | {"rotary_dim": 4}))
    assert run(["count", str(tmp_path), "-q"]) == 2
    assert "count it with --trace, as transformers builds it" in capsys.readouterr().err
    (result,) = _results(capsys, "count", str(tmp_path), "--trace")
    # 12 d^2 a layer and the head, 40 tokens; 40 x 40 scores and values
    assert result["flops"]["total"] == 2 * 40 * (2 * 12 * 48 * 48 + 48 * 211) + 2 * 4 * 40 * 40 * 48


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("null", "holds no table of keys"),
        ("[" * 100_000, "nested too deeply"),
        (json.dumps(LLAMA | {"hidden_size": "48"}), "'hidden_size' expected int, got str"),
        (json.dumps(LLAMA | {"hidden_size": 48.5}), "'hidden_size' expected int, got float"),
        (json.dumps(LLAMA | {"hidden_size": float("-inf")}), "'hidden_size' expected int, got float"),
        (json.dumps(LLAMA | {"max_position_embeddings": 6}), "seq_len=7 is longer than the context"),
        (json.dumps(LLAMA | {"num_key_value_heads": 4}), "does not run"),
    ],
)
def test_a_config_that_cannot_be_traced_is_refused_in_one_line(tmp_path, text, says, capsys):
    """Whatever transformers raises: the file, the key, exit code 2."""
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(text)
    assert run(["count", str(tmp_path), "--trace", "--seq", "7", "-q"]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_a_folder_that_wants_to_run_code_is_refused(tmp_path, capsys):
    """auto_map runs nothing without --trust-remote-code."""
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine"}}')
    (tmp_path / "code.py").write_text("raise SystemExit('ran')")
    assert run(["count", str(tmp_path), "--trace", "--seq", "5"]) == 2
    err = capsys.readouterr().err
    assert "--trust-remote-code" in err


def test_a_factory_is_run_and_said_to_be(factories, capsys):
    """Two linear layers on 5 rows of 8: 2*5*(8*32 + 32*3); its parameters with biases."""
    assert run(["count", "my_models:mlp", "--trace", "--batch", "5", "--json"]) == 0
    out, err = capsys.readouterr()
    (result,) = json.loads(out)["results"]
    assert result["flops"]["total"] == 2 * 5 * (8 * 32 + 32 * 3)
    assert result["params"]["total"] == 8 * 32 + 32 + 32 * 3 + 3
    assert (result["batch"], result["seq_len"]) == (5, 1)
    assert err == "running your code: my_models:mlp\n"


def test_a_factory_takes_set_as_its_arguments(factories, capsys):
    """--set width=16 is mlp(width=16)."""
    (result,) = _results(capsys, "count", "my_models:mlp", "--trace", "--set", "width=16")
    assert result["flops"]["total"] == 2 * (16 * 64 + 64 * 3)


def test_a_factory_without_inputs_gets_token_ids(factories, capsys):
    """A language model is called with [batch, seq] ids."""
    (result,) = _results(capsys, "count", "my_models:bigram", "--trace", "--batch", "3", "--seq", "7")
    assert result["flops"]["total"] == 2 * 3 * 7 * 8 * 11


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["my_models:number", "--trace"], "my_models:number is of type int"),
        (["my_models:nothing", "--trace"], "my_models:nothing gave an object of type int"),
        (["my_models:nowhere", "--trace"], "my_models has no nowhere"),
        (["no_models:mlp", "--trace"], "there is no module no_models"),
        (["my_models:mlp", "--trace", "--set", "depth=2"], "my_models:mlp has no parameter depth"),
        (["my_models:mlp", "--trace", "--phase", "decode"], "phase=decode"),
        (["my_models:mlp"], "count --trace, which runs it"),
        (["my_models:linear", "--trace"], "brings no inputs, and does not run on token ids"),
        (["my_models:mlp", "--reconcile"], "has no closed form"),
        (["gpt-small", "--trace", "--convention", "palm"], "not under --convention palm"),
    ],
)
def test_what_cannot_be_traced_is_refused_in_one_line(argv, says, factories, capsys):
    """The value, the rule, the way out; exit code 2."""
    assert run(["count", *argv, "-q"]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_strict_exits_with_3_after_printing_what_it_counted(factories, capsys):
    """matrix_exp multiplies matrices and has no formula: named, and the record is printed all the same."""
    assert run(["count", "my_models:odd", "--strict", "--json", "-q"]) == 3
    out, err = capsys.readouterr()
    (result,) = json.loads(out)["results"]
    assert [entry["op"] for entry in result["uncounted"]] == ["aten.linalg_matrix_exp"]
    assert "looks like a matmul" in err


def test_count_of_a_module_of_ones_own():
    """fw.count(module, inputs=...): forward, and with its backward; the module is as it was."""
    module = nn.Linear(5, 7)
    inputs = (torch.zeros(3, 5),)
    assert fw.count(module, inputs=inputs).flops.total == 2 * 3 * 5 * 7
    train = fw.count(module, fw.Workload(phase="train"), inputs=inputs)
    assert train.flops.backward == 2 * 3 * 5 * 7  # the input needs no gradient: only the weight's matmul
    assert module.weight.grad is None
    assert train.params.total == 42


def test_count_of_a_module_needs_to_know_its_inputs():
    """Nothing is guessed."""
    with pytest.raises(InputError, match="give inputs="):
        fw.count(nn.Linear(5, 7))
