"""`flopwatch mfu` on the command line: the notebook's runs, published runs, what bad input gets."""

import csv
import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from flopwatch.cli import run
from flopwatch.cost.convention import convention_names, count_flops
from flopwatch.model.load import load_spec
from flopwatch.record import json_schema
from flopwatch.workload import Workload

DATA = Path(__file__).parent / "data"
A100 = "NVIDIA A100-SXM4-40GB"
with (DATA / "notebook_results.csv").open(encoding="utf-8", newline="") as _file:
    NOTEBOOK = list(csv.DictReader(_file))
TRAINED = [row for row in NOTEBOOK if row["printed_mfu"]]
COUNTED = [row for row in NOTEBOOK if row["printed_flops"]]


@pytest.fixture
def mfu(capsys):
    """A function that runs `flopwatch mfu ... --json` and gives the results of its valid record."""

    def call(*argv):
        code = run(["mfu", *map(str, argv), "--json"])
        out, err = capsys.readouterr()
        assert code == 0, err
        record = json.loads(out)
        jsonschema.validate(record, json_schema())
        return record["results"]

    return call


@pytest.fixture
def said(capsys):
    """A function that runs `flopwatch mfu ...` and gives exit code, stdout and stderr."""

    def call(*argv):
        code = run(["mfu", *map(str, argv)])
        return code, *capsys.readouterr()

    return call


@pytest.mark.parametrize(
    ("model", "tokens_per_s", "full", "causal", "notebook"),
    [
        ("gpt-small", 62568.34, "0.171", "0.160", "0.5948"),
        ("gpt-medium", 22536.25, "0.175", "0.164", "0.6130"),
        ("gpt-large", 12465.21, "0.208", "0.196", "0.7406"),
        ("gpt-xl", 6779.92, "0.223", "0.213", "0.8113"),
    ],
)
def test_the_notebooks_best_runs_against_the_real_peak(said, model, tokens_per_s, full, causal, notebook):
    """Full and causal attention against 312 TFLOP/s, and the notebook's own figure from its own table."""
    code, out, err = said(model, "--seq", 1024, "--tokens-per-s", tokens_per_s, "--device", A100)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert any(line.startswith("MFU ") and f" {full} (" in line and "of 312.0 TFLOP/s" in line for line in lines)
    assert any(line.startswith("MFU (matmul-causal) ") and f" {causal} (" in line for line in lines)
    assert "A100 SXM4 40GB bf16 dense, datasheet" in out
    assert "train, 1,024 tokens a sequence, bf16, recompute none" in out
    own = ("--convention", "notebook", "--peak-set", "notebook")
    _, out, _ = said(model, "--seq", 1024, "--tokens-per-s", tokens_per_s, "--device", A100, *own)
    assert f" {notebook} (" in out
    assert "of 77.97 TFLOP/s" in out


@pytest.mark.parametrize("row", TRAINED, ids=lambda row: f"{row['model']}-{row['batch']}")
def test_every_mfu_that_the_notebook_prints_is_reproduced(mfu, row):
    """To its four decimals, from its tokens/s."""
    speed = ("--seq", row["seq_len"], "--tokens-per-s", row["printed_tokens_per_s"], "--dtype", row["dtype"])
    (result,) = mfu(row["model"], *speed, "--device", A100, "--convention", "notebook", "--peak-set", "notebook")
    assert f"{result['mfu']:.4f}" == row["printed_mfu"]
    assert result["peak_flops_per_s"] == 77.97e12


@pytest.mark.parametrize("row", COUNTED, ids=lambda row: f"{row['model']}-{row['batch']}")
def test_every_count_that_the_notebook_prints_is_reproduced(row):
    """Forward FLOPs to its two digits."""
    work = Workload(batch=int(row["batch"]), seq_len=int(row["seq_len"]))
    ours = count_flops(load_spec(row["model"]), work, "notebook").forward.total
    assert f"{ours:.1e}".replace("e+", "e") == row["printed_flops"]


LLAMA3_70B = """
n_layers = 80
d_model = 8192
n_heads = 64
n_kv_heads = 8
d_ff = 28672
ffn = "swiglu"
vocab_size = 128256
positions = "rope"
norm = "rmsnorm"
bias = false
max_seq_len = 8192
"""
GPT = "n_layers = {}\nd_model = {}\nn_heads = {}\nvocab_size = {}\ntied_head = true\nmax_seq_len = 2048\n"
QWEN3_30B = """
n_layers = 48
d_model = 2048
n_heads = 32
n_kv_heads = 4
d_head = 128
ffn = "swiglu"
vocab_size = 151936
max_seq_len = 4096
[moe]
n_experts = 128
experts_per_token = 8
d_ff_expert = 768
"""
QWEN25_15B = """
n_layers = 28
d_model = 1536
n_heads = 12
n_kv_heads = 2
d_ff = 8960
ffn = "swiglu"
vocab_size = 151936
tied_head = true
max_seq_len = 1024
"""


@pytest.mark.parametrize(
    ("spec", "argv", "key", "stated", "unit"),
    [
        # NVIDIA/Megatron-LM examples/llama and NeMo's archive: the same run is 780 on one page and 728 on the other.
        (LLAMA3_70B, "--seq 8k --tokens-per-s-per-device 1621 --n-devices 64", "stated_tflops_per_device", 780, 1),
        (
            LLAMA3_70B,
            "--seq 8k --tokens-per-s-per-device 1621 --n-devices 64 --convention megatron",
            "stated_tflops_per_device",
            728,
            1,
        ),
        # Megatron-LM's README: GPT-3, 32 seconds a step of 1536 sequences on 1024 A100.
        (
            GPT.format(96, 12288, 96, 51200),
            "--seq 2048 --step-s 32 --batch 1536 --n-devices 1024 --convention megatron-2021",
            "stated_tflops_per_device",
            138,
            1,
        ),
        # arXiv:2104.04473 table 2: 84 days for 300B tokens on 384 A100.
        (
            GPT.format(96, 12288, 96, 51200),
            "--seq 2048 --days 84 --tokens 300B --n-devices 384 --convention megatron-2021",
            "stated_tflops_per_device",
            153,
            1,
        ),
        # BLOOM's log: 19.561 samples/s on 384 A100, the vocabulary padded.
        (
            GPT.format(70, 14336, 112, 250680),
            "--set padded_vocab_size=250880 --seq 2048 --samples-per-s 19.561 --n-devices 384"
            " --convention megatron-2021",
            "stated_tflops_per_device",
            149.77,
            1,
        ),
        # arXiv:2205.05198: 22B with selective recomputation, MFU 41.5 %, HFU 43.7 %.
        (
            GPT.format(48, 6144, 64, 51200),
            "--seq 2048 --step-s 1.10 --batch 4 --n-devices 8 --dtype fp16 --peak-tflops 312 --convention korthikanti"
            " --recompute selective",
            "hfu",
            43.7,
            100,
        ),
        # Megatron-Bridge archive: Qwen3 30B A3B, 128 experts.
        (
            QWEN3_30B,
            "--seq 4096 --tokens-per-s-per-device 26695 --n-devices 8 --convention megatron",
            "stated_tflops_per_device",
            614,
            1,
        ),
        # llmq benchmarks/4090x4.md: 8-bit matmuls, bf16 head and attention, 60.9 % of the speed of light.
        (
            QWEN25_15B,
            "--seq 1024 --tokens-per-s-per-device 17987.1 --n-devices 4 --dtype fp8 --convention llmq"
            " --peak-tflops fp8=330.3 --peak-tflops bf16=165.2",
            "mfu",
            60.9,
            100,
        ),
    ],
    ids=["megatron-lm-780", "nemo-728", "gpt3-step", "gpt3-days", "bloom", "korthikanti", "qwen3-moe", "llmq-fp8"],
)
def test_published_runs_come_out_of_the_command(mfu, tmp_path, spec, argv, key, stated, unit):
    """Each in the words that its source says its speed in; within 1 %."""
    path = tmp_path / "spec.toml"
    path.write_text(spec, encoding="utf-8")
    (result,) = mfu(path, *argv.split())
    assert result[key] * unit == pytest.approx(stated, rel=0.01)


def test_convention_all_is_one_table_with_the_spread(mfu, said):
    """One result a convention, one line a convention."""
    results = mfu("gpt-xl", "--tokens-per-s", 6779.92, "--device", A100, "--convention", "all")
    assert [result["convention"] for result in results] == convention_names()
    assert {result["peak_flops_per_s"] for result in results} == {312e12}
    shares = {result["convention"]: result["mfu"] for result in results}
    assert (round(shares["bloom"], 3), round(shares["palm"], 3)) == (0.192, 0.234)
    code, out, _ = said("gpt-xl", "--tokens-per-s", 6779.92, "--device", A100, "--convention", "all")
    assert code == 0
    assert all(any(line.startswith(f"{name} ") for line in out.splitlines()) for name in convention_names())
    assert "from bloom to palm the count grows 1.22-fold" in " ".join(out.split())


def test_an_unknown_device_is_an_answer_with_a_way_out(mfu, said):
    """The rates stand; the share is null with its reason, and n/a in the text."""
    (result,) = mfu("gpt-xl", "--tokens-per-s", 6779.92, "--device", "NVIDIA H999")
    assert (result["mfu"], result["hfu"], result["peak_flops_per_s"]) == (None, None, None)
    assert "'NVIDIA H999'" in result["reason"]
    assert "--peak-tflops" in result["reason"]
    assert result["model_tflops_per_device"] == pytest.approx(69.65, abs=0.01)
    code, out, _ = said("gpt-xl", "--tokens-per-s", 6779.92, "--device", "NVIDIA H999")
    assert code == 0
    assert "n/a: no device is called 'NVIDIA H999'" in out
    (result,) = mfu("gpt-xl", "--tokens-per-s", 6779.92)
    assert result["reason"] == "no device is named: give --device, or the peak with --peak-tflops"
    (result,) = mfu("gpt-xl", "--tokens-per-s", 1, "--device", "NVIDIA RTX 3090", "--peak-set", "notebook")
    assert "notebook's table has no bf16 peak for 'NVIDIA RTX 3090'" in result["reason"]


def test_a_share_above_100_percent_is_printed_and_warned_of(said):
    """Exit 0: the figure may be real, and its causes are named on stderr."""
    code, out, err = said("gpt-xl", "--tokens-per-s", 40_000, "--device", A100)
    assert code == 0
    assert "1.317 (131.7 %) of 312.0 TFLOP/s" in out
    assert "warning: MFU 131.7 % of 312.0 TFLOP/s (matmul) is above 100 %: usual causes:" in err


def test_a_users_convention_is_used_and_listed(mfu, tmp_path):
    """By name, and among all."""
    path = tmp_path / "mine.toml"
    path.write_text('[mine]\ntitle="half"\nsource="us"\nattention="causal"\nweights="matmul"\n')
    speed = ("gpt-xl", "--tokens-per-s", 6779.92, "--device", A100, "--convention-file", path)
    (result,) = mfu(*speed, "--convention", "mine")
    assert (result["convention"], round(result["mfu"], 3)) == ("mine", 0.213)
    assert [result["convention"] for result in mfu(*speed, "--convention", "all")][-1] == "mine"


def test_flash_and_recomputation_raise_hfu_alone(mfu):
    """gpt-xl: the layers' forward again without its last matmul, and the scores once more in the kernel."""
    base = ("gpt-xl", "--tokens-per-s", 6779.92, "--device", A100)
    (plain,) = mfu(*base)
    (again,) = mfu(*base, "--recompute", "full", "--attention", "flash")
    assert again["mfu"] == plain["mfu"] == plain["hfu"]
    layers = 2 * 48 * (12 * 1600**2 - 4 * 1600**2) + 48 * 4 * 1600 * 1024
    scores = 48 * 2 * 1600 * 1024
    extra = (layers + scores) * 6779.92 / 312e12
    assert again["hfu"] - plain["hfu"] == pytest.approx(extra, rel=1e-9)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("gpt-xl", "no throughput is given; give one of --tokens-per-s"),
        (
            "gpt-xl --tokens-per-s 5 --samples-per-s 3",
            "--tokens-per-s and --samples-per-s both say how fast the run was",
        ),
        ("gpt-xl --step-s 2", "--step-s without --batch is no throughput"),
        ("gpt-xl --days 2", "--days and --tokens belong together"),
        ("gpt-xl --tokens-per-s nan", "--tokens-per-s: 'nan' is not a number a second"),
        ("gpt-xl --tokens-per-s x", "tokens-per-s"),
        ("gpt-xl --tokens-per-s 5 --n-devices 0", "--n-devices 0 is not above zero"),
        ("gpt-xl --tokens-per-s 5 --seq 2048", "seq_len=2048 is longer than the context of gpt-xl"),
        ("gpt-xl --tokens-per-s 5 --convention nonsense", "no convention is called 'nonsense'"),
        ("gpt-xl --tokens-per-s 5 --recompute half", "matmul does not say what recompute half costs"),
        ("gpt-xl --tokens-per-s 5 --phase forward --recompute full", "recompute=full has no meaning in phase forward"),
        ("gpt-xl --tokens-per-s 5 --peak-tflops fast", "--peak-tflops 'fast' is not a number of TFLOP/s"),
        ("gpt-xl --tokens-per-s 5 --peak-tflops 1 --peak-tflops 2", "gives two peaks for bf16"),
        ("gpt-xl --tokens-per-s 5 --peak-tflops 3.12e14", "is 312 meant?"),
        ("gpt-xl --tokens-per-s 5 --peak-tflops 3 --peak-set notebook", "both give a peak"),
        ("gpt-xl --tokens-per-s 5 --dtype bf17", "dtype"),
        ("gpt-xll --tokens-per-s 5", "gpt-xl"),
        ("gpt-xl --tokens-per-s 5 --convention-file none.toml", "none.toml: No such file or directory"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(said, argv, message):
    """Nothing on stdout, no traceback."""
    code, out, err = said(*argv.split())
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("flopwatch: ")
    assert message in err


def test_the_docs_table_has_every_convention_with_its_formula():
    """docs/conventions.md and the data cannot drift apart."""
    page = (Path(__file__).parents[1] / "docs" / "conventions.md").read_text(encoding="utf-8")
    shipped = Path(__file__).parents[1] / "src" / "flopwatch" / "cost" / "conventions.toml"
    for name, table in tomllib.loads(shipped.read_text(encoding="utf-8")).items():
        assert f"| `{name}` | {table['formula']} |" in page, name
