"""Which module and phase each operator belongs to, with and without checkpointing, and what is trained."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode

from flopwatch.cost.flops import step_flops
from flopwatch.model.load import load_spec
from flopwatch.reference.model import build_model
from flopwatch.reference.step import make_step
from flopwatch.trace import autograd_names
from flopwatch.trace.api import trace, trace_model
from flopwatch.workload import Workload

B, D, H, O = 3, 5, 7, 11  # noqa: E741


class Mlp(nn.Module):
    """[B, D] -> [B, H] -> [B, D]."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(D, H), nn.Linear(H, D)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


class Net(nn.Module):
    """Two blocks and a head, each block through `wrap`."""

    def __init__(self, wrap=lambda block, x: block(x)):
        super().__init__()
        self.blocks = nn.ModuleList(Mlp() for _ in range(2))
        self.head = nn.Linear(D, O)
        self.wrap = wrap

    def forward(self, x):
        for block in self.blocks:
            x = self.wrap(block, x)
        return self.head(x)


ONE, HEAD = 2 * B * D * H, 2 * B * D * O  # FLOPs of one matrix of a block, of the head


def _train(model, x):
    def step():
        F.cross_entropy(model(x), torch.zeros(B, dtype=torch.int64, device=x.device)).backward()

    return step


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_every_matmul_is_under_its_own_module(device):
    """Forward once, backward twice, but for the first layer, whose input needs no gradient."""
    with torch.device(device):
        model = Net()
    traced = trace(_train(model, torch.ones(B, D, device=device)), model=model)
    blocks = [f"blocks.{n}.{part}" for n in range(2) for part in ("up", "down")]
    assert traced.forward.to_dict() == dict.fromkeys(blocks, ONE) | {"head": HEAD}
    assert traced.backward.to_dict() == dict.fromkeys(blocks, 2 * ONE) | {"blocks.0.up": ONE, "head": 2 * HEAD}


MODES = {
    "none": (lambda block, x: block(x), 0, 0),
    "reentrant": (functools.partial(checkpoint, use_reentrant=True), 2, 2),
    "not reentrant": (functools.partial(checkpoint, use_reentrant=False), 1, 2),
}


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_recomputation_is_a_phase_of_its_own_in_every_checkpoint_mode(mode, early_stop):
    """Per block: both matrices again, but for the last one where torch stops early; backward is as without."""
    wrap, early, whole = MODES[mode]
    with torch.device("meta"):
        model = Net(wrap)
    x = torch.ones(B, D, device="meta", requires_grad=True)
    with set_checkpoint_early_stop(early_stop):
        traced = trace(_train(model, x), model=model)
    n_again = early if early_stop else whole
    again = ["up", "down"][:n_again]
    assert traced.recompute.to_dict() == {f"blocks.{n}.{part}": ONE for part in again for n in (1, 0)}
    assert traced.total == 3 * (4 * ONE + HEAD)
    rows = traced.by_module().values()
    assert sum(row.recompute for row in rows) == traced.recompute.total == 2 * n_again * ONE
    assert "(outside)" not in traced.backward


@pytest.mark.parametrize(("early_stop", "hardware"), [(True, 3.666), (False, 3.953)])
@pytest.mark.parametrize("reentrant", [True, False])
def test_gpt_xl_checkpointed_per_block_has_an_mfu_base_of_3(reentrant, early_stop, hardware):
    """gpt-xl, batch 2 x 1024: 3 x forward for the model; all layers again on top, without the last matmul of each."""
    spec = load_spec("gpt-xl")
    model = build_model(spec, attention="math", device="meta")
    for block in model.layers:
        inner = block.forward
        block.forward = functools.partial(checkpoint, inner, use_reentrant=reentrant)
    with set_checkpoint_early_stop(early_stop):
        traced = trace(make_step(model, Workload(batch=2, seq_len=1024, phase="train", optimizer="none")), model=model)
    forward = traced.forward.total
    assert forward == 7_013_407_129_600
    assert traced.total == 3 * forward
    if reentrant and early_stop:
        hardware = 3.953  # a reentrant checkpoint never stops early
    assert traced.hardware_total / forward == pytest.approx(hardware, abs=5e-4)
    assert sum(row.hardware_flops for row in traced.by_module().values()) == traced.hardware_total
    assert traced.recompute.only("layers").total == traced.recompute.total


def test_a_checkpointed_function_without_modules_is_recomputation_too():
    """Plain operators in a checkpoint have no module; that gradients are on in a backward pass tells."""
    w = torch.ones(D, H, device="meta", requires_grad=True)
    x = torch.ones(B, D, device="meta", requires_grad=True)
    for reentrant in (True, False):
        traced = trace(
            lambda reentrant=reentrant: (
                checkpoint(lambda x: torch.relu(torch.relu(x @ w) @ w.t()), x, use_reentrant=reentrant).sum().backward()
            )
        )
        assert (traced.forward.total, traced.backward.total, traced.recompute.total) == (2 * ONE, 4 * ONE, 2 * ONE)


def test_attention_is_attention_when_it_is_recomputed():
    """The score matrix stays away in the recomputation too: torch compares both runs' tensors."""
    x = torch.ones(2, 3, 5, 8, device="meta", requires_grad=True)
    attend = functools.partial(F.scaled_dot_product_attention, x, x)
    for run in (lambda out: out.sum().backward(), lambda out: torch.autograd.grad(out.sum(), x)):
        traced = trace(lambda run=run: run(checkpoint(attend, x, use_reentrant=False)), attention="flash")
        scores = 2 * 2 * 3 * 5 * 5 * 8
        assert (traced.forward.total, traced.backward.total) == (2 * scores, 4 * scores)
        assert (traced.recompute.total, traced.in_kernel.total) == (2 * scores, scores)


def test_a_backward_that_is_differentiated_is_no_recomputation():
    """Gradients are on in a backward pass with create_graph: sum(x @ x) backwards, then backwards through that."""
    x = torch.ones(3, 3, requires_grad=True)

    def step():
        (gradient,) = torch.autograd.grad((x @ x).sum(), x, create_graph=True)
        gradient.square().sum().backward()

    traced = trace(step)
    assert (traced.forward.total, traced.backward.total, traced.recompute.total) == (54, 2 * 54 + 2 * 54, 0)


def test_accumulated_steps_add_up():
    """Two micro-batches: twice the forward and backward of one."""
    with torch.device("meta"):
        model = Net()
    x = torch.ones(B, D, device="meta")
    step = _train(model, x)
    once, twice = trace(step, model=model), trace(lambda: (step(), step()), model=model)
    assert twice.forward == once.forward * 2
    assert twice.backward == once.backward * 2


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD])
def test_the_weight_update_is_a_phase_without_matmuls(make):
    """AdamW and SGD work in the optimizer phase, element by element."""
    with torch.device("meta"):
        model = Net()
    optimizer = make(model.parameters(), lr=0.1)
    step = _train(model, torch.ones(B, D, device="meta"))
    traced = trace(lambda: (step(), optimizer.step(), optimizer.zero_grad()), model=model)
    update = [call for call in traced.operators() if call.phase == "optimizer"]
    assert update
    assert traced.optimizer.total == 0
    assert sum(call.vector_ops for call in update) >= sum(p.numel() for p in model.parameters())


def test_an_optimizer_with_matmuls_is_counted_apart():
    """Muon's Newton-Schulz steps are matmuls: no part of the model's FLOPs."""
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    with torch.device("meta"):
        model = Mlp()
    optimizer = torch.optim.Muon([model.up.weight, model.down.weight])
    traced = trace(lambda: (model(torch.ones(B, D, device="meta")).sum().backward(), optimizer.step()), model=model)
    assert traced.optimizer.total > 0
    assert traced.total == 2 * ONE + 3 * ONE
    assert traced.hardware_total == traced.total


FROZEN = [("head", 1.271, "gpt-small"), ("tokens", 2.133, "gpt-small"), ("head", 1.047, "gpt-xl")]


@pytest.mark.parametrize(("trained", "factor", "name"), FROZEN)
def test_frozen_parameters_are_counted_for_real(trained, factor, name):
    """All but the head frozen: one matmul more than forward; only the embeddings: every input gradient. Never 3."""
    spec = load_spec(name)
    model = build_model(spec, attention="math", device="meta")
    for path, parameter in model.named_parameters():
        parameter.requires_grad_(path.startswith(trained))
    ids = torch.empty(2, 1024, dtype=torch.int64, device="meta")
    traced = trace_model(model, (ids,), phase="train")
    assert traced.total / traced.forward.total == pytest.approx(factor, abs=6e-4)
    if trained == "head":
        assert traced.backward.total == 2 * 2 * 1024 * spec.d_model * spec.vocab_size


def test_low_rank_adapters_count_their_own_backward_only():
    """W frozen, A [R, D] and B [H, R] trained: no gradient for W, input gradients where something below is trained."""
    R = 2

    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = nn.Linear(D, H, bias=False).requires_grad_(False)
            self.a, self.b = nn.Linear(D, R, bias=False), nn.Linear(R, H, bias=False)

        def forward(self, x):
            return self.base(x) + self.b(self.a(x))

    with torch.device("meta"):
        model = Adapted()
    traced = trace_model(model, (torch.ones(B, D),), phase="train")
    a, b = 2 * B * D * R, 2 * B * R * H
    assert traced.forward.to_dict() == {"base": ONE, "a": a, "b": b}
    assert traced.backward.to_dict() == {"b": 2 * b, "a": a}


def test_a_shared_module_keeps_its_first_name():
    """One layer used twice is one row with twice the work."""
    with torch.device("meta"):
        layer = nn.Linear(D, D)
        model = nn.Sequential(layer, nn.ReLU(), layer)
    traced = trace(lambda: model(torch.ones(B, D, device="meta")), model=model)
    assert traced.forward.to_dict() == {"0": 2 * 2 * B * D * D}


def test_without_a_model_the_modules_that_are_called_are_roots():
    """One root gives plain paths; two have their class in front."""
    with torch.device("meta"):
        first, second = Mlp(), Net()
    x = torch.ones(B, D, device="meta")
    assert list(trace(lambda: first(x)).forward) == ["up", "down"]
    both = trace(lambda: (first(x), second(x)))
    assert list(both.forward.at_depth(1)) == ["Mlp", "Net"]
    assert both.forward.only("Net.head").total == HEAD


def test_a_module_that_fails_and_is_caught_is_left_again():
    """A step that goes on after a module's error has its later work under the right modules, none as recomputation."""

    class Fragile(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(D, H), nn.Linear(D, H)

        def forward(self, x):
            try:
                self.first(x[:, 1:])  # four columns where five are due
            except RuntimeError:
                return self.second(x)
            raise AssertionError("the first layer takes no four columns")

    model = Fragile()
    traced = trace(lambda: model(torch.ones(B, D)).sum().backward(), model=model)
    assert traced.forward.to_dict() == {"second": ONE}
    assert (traced.backward.to_dict(), traced.recompute.total) == ({"second": ONE}, 0)


def test_a_module_that_nobody_registered_is_named_by_its_caller():
    """Its work is not lost: the path says who called it."""

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = [nn.Linear(D, H)]  # a plain list hides it

        def forward(self, x):
            return self.parts[0](x)

    model = Hidden()
    assert trace(lambda: model(torch.ones(B, D)), model=model).forward.to_dict() == {"(Linear)": ONE}


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_step_with_a_cache_counts_the_keys_that_it_meets(phase):
    """Decode meets all 19 keys with one query, prefill 19 with 19; logits of the last token only."""
    spec = load_spec("gpt-small", {"n_layers": "2", "d_model": "36", "n_heads": "6", "vocab_size": "101"})
    workload = Workload(batch=3, seq_len=19, phase=phase)
    model = build_model(spec, device="meta")
    traced = trace(make_step(model, workload), model=model)
    n = 1 if phase == "decode" else 19
    assert traced.forward.total == 2 * (2 * 3 * n * 12 * 36**2 + 4 * 3 * n * 19 * 36) + 2 * 3 * 36 * 101
    assert traced.forward.total == step_flops(spec, workload).forward.total


GPTS = {
    "gpt-small": 583_296_614_400,
    "gpt-medium": 1_653_902_147_584,
    "gpt-large": 3_549_141_401_600,
    "gpt-xl": 7_013_407_129_600,
}


@pytest.mark.parametrize("name", GPTS)
def test_the_four_gpts_have_their_exact_flops(name):
    """Batch 2 x 1024: 2BT(12Ld^2 + dV) + 4BT^2dL, and twice that backward."""
    model = build_model(load_spec(name), device="meta")
    traced = trace(make_step(model, Workload(batch=2, seq_len=1024, phase="train", optimizer="none")), model=model)
    assert (traced.forward.total, traced.backward.total) == (GPTS[name], 2 * GPTS[name])
    assert traced.coverage == "complete"


def test_torchs_own_counter_agrees_where_it_is_right():
    """On meta, with attention taken apart, FlopCounterMode sees every matmul."""
    model = build_model(load_spec("gpt-small", {"n_layers": "2"}), attention="math", device="meta")
    step = make_step(model, Workload(batch=1, seq_len=33, phase="train", recompute="full", attention="math"))
    with FlopCounterMode(display=False) as counter:
        step()
    assert trace(step, model=model).hardware_total == counter.get_total_flops()


def test_the_private_names_of_autograd_say_what_we_read_in_them():
    """Numbers go up by one a node, the node of an operator has the number before, leaves have none, tasks nest."""
    x = torch.ones(2, requires_grad=True)
    before = autograd_names.sequence_number()
    y = x * 2
    assert autograd_names.node_number(y.grad_fn) == before
    assert autograd_names.sequence_number() == before + 1
    leaf = y.grad_fn.next_functions[0][0]
    assert autograd_names.node_number(leaf) == autograd_names.NO_NUMBER
    assert autograd_names.accumulated_leaf(leaf) is x
    seen = []
    y.register_hook(lambda _: seen.append((autograd_names.graph_task(), autograd_names.current_node())))
    z = y.sin()
    z.register_hook(lambda _: seen.append(autograd_names.node_number(autograd_names.current_node())))
    assert autograd_names.graph_task() == autograd_names.NO_TASK
    assert autograd_names.current_node() is None
    z.sum().backward()
    assert seen[0] == autograd_names.node_number(z.grad_fn)
    assert seen[1][0] != autograd_names.NO_TASK
    assert autograd_names.graph_task() == autograd_names.NO_TASK
