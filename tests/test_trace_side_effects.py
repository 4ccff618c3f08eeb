"""After a trace, also one that failed in the middle, everything is as before."""

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as module_globals
from torch.optim import optimizer as optimizer_globals
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.flop_counter import flop_registry

from flopwatch.trace.api import trace, trace_model


class Failing(nn.Module):
    """Raises what it is told to, in its forward or, through a custom function, in its backward."""

    def __init__(self, error=None, *, in_backward=False):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3)
        self.error = error
        self.in_backward = in_backward

    def forward(self, x):
        x = self.norm(self.first(x))
        if self.error is not None and not self.in_backward:
            raise self.error
        x = self.last(x)
        if self.in_backward:
            x.register_hook(self._raise)
        return F.scaled_dot_product_attention(x[None], x[None], x[None])

    def _raise(self, _):
        raise self.error


def _functions():
    """What a tracer could be tempted to replace in torch."""
    return (
        F.scaled_dot_product_attention,
        torch._C._nn.scaled_dot_product_attention,
        F.linear,
        F.multi_head_attention_forward,
        torch.compile,
        torch.autograd._engine_run_backward,
        torch.autograd.backward,
        torch.autograd.grad,
        torch.Tensor.backward,
        torch.matmul,
        nn.Module.__call__,
        nn.Module.forward,
        torch.optim.AdamW.step,
        torch.utils.checkpoint.checkpoint,
    )


def _state(model):
    """Everything that must be the same afterwards."""
    return {
        "keys": list(model.state_dict()),
        "training": [part.training for part in model.modules()],
        "hooks": [
            (len(part._forward_hooks), len(part._forward_pre_hooks), len(part._backward_hooks))
            for part in model.modules()
        ],
        "attributes": [sorted(vars(part)) for part in model.modules()],
        "gradients": [parameter.grad for parameter in model.parameters()],
        "parameters": [id(parameter) for parameter in model.parameters()],
        "requires grad": [parameter.requires_grad for parameter in model.parameters()],
        "tensor hooks": [parameter._backward_hooks for parameter in model.parameters()],
        "global hooks": (
            len(module_globals._global_forward_hooks),
            len(module_globals._global_forward_pre_hooks),
            len(module_globals._global_forward_hooks_always_called),
            len(module_globals._global_backward_hooks),
        ),
        "optimizer hooks": (
            len(optimizer_globals._global_optimizer_pre_hooks),
            len(optimizer_globals._global_optimizer_post_hooks),
        ),
        "functions": _functions(),
        "formulas": dict(flop_registry),
        "dispatch modes": list(_get_current_dispatch_mode_stack()),
        "function modes": torch.overrides._get_current_function_mode_stack(),
        "attention kernels": (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
        ),
        "garbage collection": gc.isenabled(),
        "gradients on": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
    }


def _assert_same(before, after):
    for name in before:
        if name == "gradients":
            assert all(a is b for a, b in zip(before[name], after[name], strict=True)), name
        else:
            assert before[name] == after[name], name


def _step(model, *, switches=True):
    def step():
        if switches:
            model.train()
        model(torch.ones(4, 5)).sum().backward()

    return step


ERRORS = [torch.OutOfMemoryError("out of memory"), RuntimeError("DefaultCPUAllocator"), KeyError("x"), SystemExit(3)]


@pytest.mark.parametrize("attention", ["auto", "math"])
def test_a_trace_that_ends_leaves_everything_as_it_was(attention):
    """A gradient that was there is the same tensor with the same numbers, evaluation mode is evaluation mode."""
    model = Failing().eval()
    model(torch.ones(4, 5)).sum().backward()
    numbers = [parameter.grad.clone() for parameter in model.parameters()]
    before = _state(model)
    traced = trace(_step(model), model=model, attention=attention)
    assert traced.backward.total > 0
    _assert_same(before, _state(model))
    for parameter, number in zip(model.parameters(), numbers, strict=True):
        torch.testing.assert_close(parameter.grad, number, rtol=0, atol=0)


@pytest.mark.parametrize("given", [True, False], ids=["model given", "model found"])
@pytest.mark.parametrize("in_backward", [False, True])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_trace_that_fails_leaves_everything_as_it_was(error, in_backward, given):
    """The user's own error comes out, and nothing of the trace stays, whether the model was given or found."""
    model = Failing(error, in_backward=in_backward).eval()
    before = _state(model)
    with pytest.raises(type(error)) as raised:
        trace(_step(model, switches=given), model=model if given else None)
    assert raised.value is error
    _assert_same(before, _state(model))


@pytest.mark.parametrize("tensors", ["meta", "fake", "real"])
@pytest.mark.parametrize("error", [None, RuntimeError("no")], ids=["ends", "fails"])
def test_a_model_that_is_traced_without_data_keeps_its_weights(tensors, error):
    """Parameters and buffers are replaced while it runs, and put back (a real BatchNorm updates its statistics)."""
    model = Failing(error)
    before = _state(model)
    weights = {name: value.clone() for name, value in model.state_dict().items() if "norm" not in name}
    if error is None:
        trace_model(model, (torch.ones(4, 5),), phase="train", tensors=tensors)
    else:
        with pytest.raises(RuntimeError, match=r"^no$"):
            trace_model(model, (torch.ones(4, 5),), phase="train", tensors=tensors)
    _assert_same(before, _state(model))
    for name, value in weights.items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)


def test_a_second_trace_counts_the_same_after_a_failure():
    """In a search that runs out of memory no later count is double."""
    model = Failing()
    first = trace(_step(model), model=model)
    model.error = torch.OutOfMemoryError("out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        trace(_step(model), model=model)
    model.error = None
    second = trace(_step(model), model=model)
    assert second.to_dict() == first.to_dict()


def test_a_trace_keeps_no_tensor_of_the_step_alive():
    """What the step made is gone when it ends, though the trace is still there."""
    model = Failing()
    seen = []

    def step():
        import weakref

        out = model(torch.ones(4, 5))
        seen.append(weakref.ref(out))
        out.sum().backward()

    traced = trace(step, model=model)
    assert seen[0]() is None
    assert traced.memory.live_bytes < traced.memory.peak_bytes


def test_compiled_functions_run_eagerly_and_compile_afterwards():
    """A function first called under a trace is compiled by its next call, not eager for ever."""
    compiled = []

    def backend(graph, _):
        compiled.append(graph)
        return graph.forward

    linear = nn.Linear(5, 7)
    function = torch.compile(lambda x: torch.relu(linear(x)), backend=backend)
    traced = trace(lambda: function(torch.ones(3, 5)), model=linear)
    assert (traced.total, compiled) == (210, [])
    function(torch.ones(3, 5))
    assert len(compiled) == 1


@pytest.mark.parametrize("given", [True, False], ids=["model given", "model found"])
def test_a_compiled_module_is_traced_as_the_module_within_it(given):
    """Its paths are those of the module, and it compiles when it is called afterwards."""
    compiled = []

    def backend(graph, _):
        compiled.append(graph)
        return graph.forward

    model = torch.compile(nn.Sequential(nn.Linear(5, 7)), backend=backend)
    traced = trace(lambda: model(torch.ones(3, 5)), model=model if given else None)
    assert (traced.forward.to_dict(), compiled) == ({"0": 210}, [])
    model(torch.ones(3, 5))
    assert len(compiled) == 1


def test_traces_do_not_nest_into_each_other():
    """A trace within a traced step counts its own step, and the outer one sees it as well."""
    linear = nn.Linear(5, 7)
    inner = []
    outer = trace(lambda: inner.append(trace(lambda: linear(torch.ones(3, 5)))))
    assert inner[0].total == 210
    assert outer.total == 210
