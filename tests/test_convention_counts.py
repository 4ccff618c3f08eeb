"""Each convention counts what its source's formula says, written out here from the source."""

from fractions import Fraction

import pytest

from flopwatch.cost.convention import convention_names, count_flops, find_convention, flops_per_token
from flopwatch.cost.flops import step_flops
from flopwatch.errors import InputError
from flopwatch.model.load import load_spec
from flopwatch.model.params import count_active_params
from flopwatch.model.spec import MLASpec, ModelSpec, MoESpec
from flopwatch.workload import Workload

GPT3 = ModelSpec(n_layers=96, d_model=12288, n_heads=96, vocab_size=51200, tied_head=True, max_seq_len=2048)
LLAMA3_8B = ModelSpec(
    n_layers=32,
    d_model=4096,
    n_heads=32,
    n_kv_heads=8,
    d_ff=14336,
    ffn="swiglu",
    vocab_size=128256,
    norm="rmsnorm",
    positions="rope",
    bias=False,
    max_seq_len=8192,
)
LLAMA3_8B_PARAMETERS = 8_030_261_248  # its model card
GPT_OSS = ModelSpec(
    n_layers=36,
    d_model=2880,
    n_heads=64,
    n_kv_heads=8,
    d_head=64,
    ffn="swiglu",
    vocab_size=201088,
    max_seq_len=4096,
    window=128,
    window_pattern="LG",
    moe=MoESpec(n_experts=128, experts_per_token=4, d_ff_expert=2880),
)
DEEPSEEK_V3 = ModelSpec(
    n_layers=61,
    d_model=7168,
    n_heads=128,
    d_ff=18432,
    ffn="swiglu",
    vocab_size=129280,
    norm="rmsnorm",
    positions="rope",
    bias=False,
    max_seq_len=4096,
    n_mtp_layers=1,
    moe=MoESpec(n_experts=256, experts_per_token=8, d_ff_expert=2048, n_shared_experts=1, first_dense_layers=3),
    mla=MLASpec(q_rank=1536, kv_rank=512, d_nope=128, d_rope=64, d_value=128),
)
ODD = ModelSpec(n_layers=3, d_model=35, n_heads=5, d_head=9, d_ff=53, vocab_size=101, max_seq_len=29)
ODD_WINDOWS = ModelSpec(
    n_layers=5, d_model=35, n_heads=5, d_head=9, d_ff=53, vocab_size=101, max_seq_len=29, window=7, window_pattern="LLG"
)
ODD_MOE = ModelSpec(
    n_layers=5,
    d_model=35,
    n_heads=6,
    n_kv_heads=3,
    d_head=9,
    d_ff=53,
    ffn="geglu",
    vocab_size=101,
    padded_vocab_size=107,
    tied_head=True,
    max_seq_len=29,
    n_mtp_layers=2,
    moe=MoESpec(
        n_experts=7,
        experts_per_token=2,
        d_ff_expert=19,
        n_shared_experts=1,
        d_ff_shared=23,
        first_dense_layers=1,
        shared_gate=True,
    ),
)
SPECS = {"odd": ODD, "windows": ODD_WINDOWS, "moe": ODD_MOE, "deepseek": DEEPSEEK_V3}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("phase", ["forward", "train", "prefill", "decode"])
def test_matmul_is_the_exact_count(spec, phase):
    """The default convention and the closed form are one number, recomputation and kernels too."""
    plain = Workload(batch=3, seq_len=17, phase=phase, n_accumulate=2)
    flash = Workload(batch=3, seq_len=17, phase=phase, attention="flash")
    works = [plain, flash]
    if phase == "train":
        works += [Workload(batch=3, seq_len=17, phase=phase, attention=a, recompute="full") for a in ("math", "flash")]
    for work in works:
        assert count_flops(spec, work) == step_flops(spec, work)


@pytest.mark.parametrize(
    ("name", "attention", "expected"),
    [
        ("gpt-small", "matmul-causal-exact", 544_679_657_472),
        ("gpt-xl", "matmul-causal-exact", 6_691_599_155_200),
        ("gpt-small", "matmul", 583_296_614_400),
        ("gpt-small", "notebook", 2 * 2048 * (12 * 12 * 768**2 + 768 * 50257)),
        ("gpt-medium", "notebook", 2 * 2048 * (12 * 24 * 1024**2 + 1024 * 50257)),
        ("gpt-large", "notebook", 2 * 2048 * (12 * 36 * 1280**2 + 1280 * 50257)),
        ("gpt-xl", "notebook", 2 * 2048 * (12 * 48 * 1600**2 + 1600 * 50257)),
    ],
)
def test_the_notebooks_models_have_their_exact_counts(name, attention, expected):
    """2 x 1024 tokens forward; thop's 2BT(12Ld^2 + dV) is the notebook's own count."""
    step = count_flops(load_spec(name), Workload(batch=2, seq_len=1024), attention)
    assert step.forward.total == expected
    assert step.backward.total == 0


def test_causal_attention_is_half_and_its_diagonal_makes_it_exact():
    """12LaT, 6LaT and 6La(T + 1) for each token of a training step."""
    seq_len, a = 17, 5 * 9
    none = flops_per_token(ODD, seq_len, "notebook")
    assert flops_per_token(ODD, seq_len, "matmul") - none == 12 * 3 * a * seq_len
    assert flops_per_token(ODD, seq_len, "matmul-causal") - none == 6 * 3 * a * seq_len
    assert flops_per_token(ODD, seq_len, "matmul-causal-exact") - none == 6 * 3 * a * (seq_len + 1)


@pytest.mark.parametrize("seq_len", [3, 7, 8, 29])
def test_window_conventions_count_the_pairs_of_the_mask(seq_len):
    """Counted one by one: 4 of the 5 layers see 7 keys at most, one sees all that are before it."""
    pairs = [(q, k) for q in range(seq_len) for k in range(q + 1)]
    in_window = sum(1 for q, k in pairs if q - k < 7)
    exact = 4 * in_window + len(pairs)
    none = flops_per_token(ODD_WINDOWS, seq_len, "notebook") * seq_len
    per_pair = 3 * 2 * 2 * 5 * 9  # training, multiply-add, scores and values, heads, width
    found = flops_per_token(ODD_WINDOWS, seq_len, "matmul-window-exact") * seq_len - none
    assert found == per_pair * exact
    clipped = seq_len * (4 * min(7, seq_len) + seq_len)  # as nanochat counts
    assert flops_per_token(ODD_WINDOWS, seq_len, "matmul-window") * seq_len - none == per_pair * clipped
    halved = flops_per_token(ODD_WINDOWS, seq_len, "maxtext") * seq_len - none
    assert halved == Fraction(per_pair * clipped, 2)
    bridge = 4 * Fraction(in_window if seq_len > 7 else Fraction(seq_len**2, 2)) + Fraction(seq_len**2, 2)
    assert flops_per_token(ODD_WINDOWS, seq_len, "megatron-bridge") * seq_len - none == per_pair * bridge


def test_one_token_with_a_cache_sees_every_key():
    """In decode the mask takes nothing away: the last token attends to all before it, or to its window."""
    work = Workload(batch=3, seq_len=17, phase="decode")
    full = count_flops(ODD_WINDOWS, work, "matmul").forward
    for name in ("matmul-causal", "matmul-causal-exact"):
        assert count_flops(ODD_WINDOWS, work, name).forward == full
    windowed = count_flops(ODD_WINDOWS, work, "matmul-window-exact").forward
    assert windowed["layers.attention.scores"] == 2 * 3 * 5 * 9 * (4 * 7 + 17)


def test_palm_nanogpt_and_llm_c_agree_with_their_own_parameter_counts():
    """GPT-2: 124,439,808 parameters; nanoGPT leaves the position table out, llm.c pads the vocabulary to 50304."""
    gpt2, attention = load_spec("gpt2"), 12 * 12 * 768 * 1024
    assert flops_per_token(gpt2, 1024, "palm") == 6 * 124_439_808 + attention
    assert flops_per_token(gpt2, 1024, "nanogpt") == 6 * 123_653_376 + attention
    padded = load_spec("gpt2", {"padded_vocab_size": "50304"})
    assert flops_per_token(padded, 1024, "llm-c") == 6 * 124_475_904 + attention // 2
    assert flops_per_token(gpt2, 1024, "6n") == 6 * 124_439_808


def test_torchtitan_counts_all_parameters_but_the_input_table():
    """Llama 3 8B: 8.03B parameters, 525M of them the input embedding, which it counted until mid-2024."""
    attention = 12 * 32 * 32 * 128 * 8192
    before = flops_per_token(LLAMA3_8B, 8192, "torchtitan-2024")
    assert before == 6 * LLAMA3_8B_PARAMETERS + attention
    assert flops_per_token(LLAMA3_8B, 8192, "torchtitan") == before - 6 * 4096 * 128256


def test_the_input_table_of_a_tied_head_is_taken_away_with_the_head():
    """6(N - dV) leaves nothing of the only table, as the source's subtraction does."""
    gpt2 = load_spec("gpt2")
    expected = 6 * (124_439_808 - 768 * 50257) + 12 * 12 * 768 * 1024
    assert flops_per_token(gpt2, 1024, "torchtitan") == expected


@pytest.mark.parametrize("batch", [1, 1536])
def test_sc21_counts_four_forwards_of_the_layers_and_three_of_the_head(batch):
    """arXiv:2104.04473 eq. 3: 96Bslh^2(1 + s/6h + V/16lh)."""
    s, layers, h, v = 2048, 96, 12288, 51200
    expected = 96 * batch * s * layers * h**2 * (1 + Fraction(s, 6 * h) + Fraction(v, 16 * layers * h))
    step = count_flops(GPT3, Workload(batch=batch, seq_len=s, phase="train"), "megatron-2021", recompute="full")
    assert step.hardware_flops == expected
    assert find_convention("megatron-2021").quantity == "hardware"


def test_korthikanti_counts_by_its_equations_7_and_8():
    """arXiv:2205.05198: 72Bslh^2(1 + s/6h + V/12hL); selective recomputation has s/3h in the place of s/6h."""
    s, layers, h, v = 2048, 96, 12288, 51200

    def equation(share):
        return 72 * s * layers * h**2 * (1 + share + Fraction(v, 12 * h * layers))

    step = count_flops(GPT3, Workload(seq_len=s, phase="train"), "korthikanti", recompute="selective")
    assert step.model_flops == equation(Fraction(s, 6 * h))
    assert step.hardware_flops == equation(Fraction(s, 3 * h))


def test_flash_attention_counts_three_quarters_of_sc21():
    """Its training README: 72Bslh^2(1 + s/6h + V/16lh), a head of 4.5dV."""
    s, layers, h, v = 2048, 96, 12288, 51200
    expected = 72 * layers * h**2 * (1 + Fraction(s, 6 * h) + Fraction(v, 16 * layers * h))
    assert flops_per_token(GPT3, s, "flash-attention") == expected


def test_blooms_first_calculator_is_eight_times_the_layers():
    """96Lh^2 a token: no attention, no head, full recomputation."""
    assert flops_per_token(GPT3, 2048, "bloom", recompute="full") == 96 * 96 * 12288**2


def test_llm_foundry_recomputes_everything():
    """Its HFU is 4/3 of its MFU, head and all."""
    once = flops_per_token(GPT3, 2048, "llm-foundry")
    assert flops_per_token(GPT3, 2048, "llm-foundry", recompute="full") == once * Fraction(4, 3)


def test_megatron_counts_latent_attention_experts_and_mtp():
    """DeepSeek-V3 written out from its config.json: 3 dense layers, 58 of experts and one for the second token."""
    d, heads, seq_len, v = 7168, 128, 4096, 129280
    low_rank = d * 1536 + 1536 * heads * 192 + d * (512 + 64) + 512 * heads * 256 + heads * 128 * d
    core = seq_len * heads * (192 + 128) // 2
    dense = 3 * d * 18432
    experts = 3 * d * 2048 * (8 + 1)
    layers = 62 * (low_rank + core) + 3 * dense + 59 * experts
    assert flops_per_token(DEEPSEEK_V3, seq_len, "megatron") == 6 * (layers + 2 * d * d + 2 * d * v)


def test_megatron_leaves_the_router_out_and_matmul_does_not():
    """36 routers of 2880 x 128, six FLOPs a weight."""
    with_router = flops_per_token(GPT_OSS, 4096, "matmul-causal")
    assert with_router - flops_per_token(GPT_OSS, 4096, "megatron") == 6 * 36 * 2880 * 128


def test_ungated_leaves_one_of_three_matrices_out():
    """Four experts of 2880 x 2880 in 36 layers."""
    gated = flops_per_token(GPT_OSS, 4096, "megatron")
    assert gated - flops_per_token(GPT_OSS, 4096, "megatron-ungated") == 6 * 36 * 4 * 2880 * 2880


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_six_n_is_six_flops_for_each_active_parameter(spec):
    """Every parameter a token passes is counted once: tied tables, experts, latent attention, MTP."""
    assert flops_per_token(spec, 17, "6n") == 6 * count_active_params(spec)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("name", convention_names())
def test_parts_are_whole_and_their_sum_is_the_count(spec, name):
    """Backward is twice forward; the per-token figure is the step's, to less than one FLOP a part."""
    work = Workload(batch=1, seq_len=17, phase="train")
    for recompute in find_convention(name).recomputes:
        step = count_flops(spec, work, name, recompute=recompute)
        exact = flops_per_token(spec, 17, name, recompute=recompute) * 17
        assert 0 <= exact - step.hardware_flops < 3 * len(step.forward)
        assert step.model_flops == sum(step.forward.values()) + sum(step.backward.values())
        assert all(n > 0 for part in (step.forward, step.backward, step.recompute) for n in part.values())


def test_a_count_with_a_half_is_rounded_down_at_its_part():
    """The sc21 head of an odd width, vocabulary and number of tokens: 1.5 x 35 x 101 x 17 and its double."""
    step = count_flops(ODD, Workload(batch=1, seq_len=17, phase="train"), "flash-attention")
    assert step.forward["head"] == 90142  # of 90142.5
    assert step.backward["head"] == 180285
    head = flops_per_token(ODD, 17, "flash-attention") - flops_per_token(ODD, 17, "matmul")
    assert head == -Fraction(3, 2) * 35 * 101


@pytest.mark.parametrize(("name", "recompute"), [("matmul", "partial"), ("megatron", "everything")])
def test_recomputation_that_a_convention_does_not_know_is_refused(name, recompute):
    """A guess would be a wrong HFU."""
    with pytest.raises(InputError, match=f"{name} does not say what recompute {recompute} costs; it knows none, full"):
        count_flops(ODD, Workload(seq_len=17, phase="train"), name, recompute=recompute)


def test_recomputation_without_a_backward_pass_is_refused():
    """Forward alone keeps no activations."""
    with pytest.raises(InputError, match="recompute=full has no meaning in phase forward"):
        count_flops(ODD, Workload(seq_len=17), "palm", recompute="full")
