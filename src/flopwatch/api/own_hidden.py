"""What operators of the user's step allocate inside their kernels: found by running each of them once, alone, for real.

A library may copy operands into layouts of its own, keep a workspace for backward, or cast an operand: no run without
data sees that, and how much it is depends on the library, the processor and the threads. A call of an operator costs
milliseconds, so it is tried: on tensors with data of the same sizes, under the memory events of torch's profiler.
"""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from flopwatch.cost.eager.tape import Tape
from flopwatch.probe.tensor_peak import tensor_peak
from flopwatch.trace.without_data import no_functions

_aten = torch.ops.aten
_MOST_S: Final = 10.0  # for all of them in one trace
_MOST_BYTES: Final = 1 << 30  # of the tensors of one call
_MATMULS: Final = frozenset({"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot"})
_LIBRARIES: Final = frozenset({"aten", "torchvision"})
# What they allocate depends on the values of their indices.
_BY_VALUES: Final = frozenset({"_embedding_bag", "_embedding_bag_forward_only", "_embedding_bag_backward"})
_NOTHING_INSIDE: Final = ("_foreach_", "_fused_", "new_", "empty", "zeros", "ones", "full", "rand", "detach", "alias")
# torch's own backward passes write into zeros that they have made, but not where a tensor is not plain.
_EMPTY: Final = _aten.empty.memory_format
_IN_PLACE: Final = {
    _aten.scatter.src: _aten.scatter_.src,
    _aten.scatter_add.default: _aten.scatter_add_.default,
    _aten.index_add.default: _aten.index_add_.default,
    _aten.index_put.default: _aten.index_put_.default,
}
_OWN_NODE: Final = re.compile(r"\w+Backward\d+")  # a function of the user's has no number
# torch makes the vectors, too, where a tensor is not plain.
_WITHOUT_GRADIENTS: Final = frozenset({"aten._linalg_svd", "aten._linalg_eigh"})
_ROUNDING_BYTES: Final = 4096
_OTHER_BACKWARDS: Final = {"CumprodBackward0": "cumprod", "ProdBackward0": "prod", "ProdBackward1": "prod"}


class _Made(NamedTuple):
    """A tensor that an operator really made: its storage may be larger than the tensor."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    storage_bytes: int


class _Found(NamedTuple):
    """What one call took besides its results, and the results in their order (None for what is no tensor)."""

    hidden_bytes: int
    results: Sequence[_Made | None]


class MeasuredTensors(TorchDispatchMode):
    """Makes visible what operators allocate inside on this CPU, for a trace of a step on fake CPU tensors.

    `not_measured` are operators that take memory of an unknown size, `other_ways` those whose backward is not what a
    real run does; the peak is too low, or too high, by that. `is_cut_short`: some were too large, or took too long.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.not_measured: dict[str, None] = {}
        self.other_ways: dict[str, None] = {}
        self.is_cut_short = False
        self._found: dict[Any, _Found | None] = {}
        self._spent_s = 0.0
        self._makers: list[str | None] = []  # of each empty tensor: the operator that it stands for, if it does

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """What the steps of a trace are run in."""
        with self, AsPlainTensors():
            yield

    def notes(self) -> list[str]:
        """What the peak may be off by, naming the operators."""
        said = []
        if self.not_measured:
            names = ", ".join(sorted(self.not_measured))
            said.append(
                f"{names}: what their kernels allocate inside is not known: the predicted memory may be too low by that"
            )
        if self.other_ways:
            names = ", ".join(sorted(self.other_ways))
            said.append(f"{names}: they run another way on tensors without data: the predicted memory may be too high")
        return said

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operator, with what it hides alive for a moment."""
        del types
        kwargs = kwargs or {}
        node = _node_name()
        if _OWN_NODE.fullmatch(node):
            func = _IN_PLACE.get(func, func)
        if node in _OTHER_BACKWARDS:
            self.other_ways[_OTHER_BACKWARDS[node]] = None
        if _is_composite(func):  # in inference mode they come here whole
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if func is _EMPTY:
            self._makers.append(None)
        if not isinstance(func, torch._ops.OpOverload) or not _may_hide(func, tree_leaves((args, kwargs))):
            return result
        results, structure = tree_flatten(result)
        del result
        if any(isinstance(leaf, Tensor) for leaf in results):
            self._show_hidden(func, args, kwargs, results)
        return tree_unflatten(results, structure)

    def _show_hidden(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], results: list[Any]) -> None:
        """Make the results as large as real ones, and let what the call takes besides them live for a moment."""
        name = f"{func.namespace}.{_name_of(func)}"
        found = self._measured(func, args, kwargs, results)
        if found is None:
            self.not_measured[name] = None
            return
        if name in _WITHOUT_GRADIENTS and not torch.is_grad_enabled() and not _node_name():
            self.other_ways[name] = None
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for index, real in enumerate(found.results):
            made = results[index]
            if real is None or not isinstance(made, Tensor) or made.untyped_storage()._cdata in given:
                continue
            n_bytes = made.untyped_storage().nbytes()
            if n_bytes > real.storage_bytes + _ROUNDING_BYTES:
                self.other_ways[name] = None
            elif n_bytes < real.storage_bytes:
                dtype, n_elements = made.dtype, -(-real.storage_bytes // made.element_size())
                del made
                results[index] = None  # before there is another in its place
                new = self._empty(n_elements, dtype, name)
                results[index] = new.as_strided(real.shape, real.stride)
        self._empty(found.hidden_bytes, torch.uint8, name)

    def _empty(self, n_elements: int, dtype: torch.dtype, maker: str) -> Tensor:
        self._makers.append(maker)
        return torch.empty(n_elements, dtype=dtype, device="cpu")

    def name_makers(self, tape: Tape) -> None:
        """Let the blocks on the tape of the trace say which operator allocates inside, where they stand for that."""
        empty = [block for block in tape.blocks if block.op == "aten.empty"]
        if len(empty) == len(self._makers):  # else the user's code makes some that have no storage
            for block, maker in zip(empty, self._makers, strict=True):
                block.op = maker or block.op

    def _measured(
        self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], results: Sequence[Any]
    ) -> _Found | None:
        leaves, shape = tree_flatten((args, kwargs))
        key = (func, str(shape), tuple(_fingerprint(leaf) for leaf in leaves))
        if key not in self._found:
            began_s = time.perf_counter()
            self._found[key] = self._try(func, args, kwargs, [*leaves, *results])
            self._spent_s += time.perf_counter() - began_s
        return self._found[key]

    def _try(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], leaves: Sequence[Any]) -> _Found | None:
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        is_plain = all(_is_plain(tensor) for tensor in tensors)
        is_ours = func.namespace in _LIBRARIES and _name_of(func) not in _BY_VALUES
        if not is_plain or not is_ours:
            return None
        if n_bytes > _MOST_BYTES or self._spent_s > _MOST_S:
            self.is_cut_short = True
            return None
        try:
            return _run_alone(func, args, kwargs)
        except Exception:  # noqa: BLE001 - what an operator refuses when it is alone is known to nobody else
            return None


class AsPlainTensors(TorchFunctionMode):
    """Runs a linear layer as it runs on plain tensors, which adds the bias in place where others get a new tensor."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one function."""
        del types
        if func is torch._C._nn.linear and len(args) == 3 and not kwargs and not torch.is_autocast_enabled("cpu"):
            values, weight, bias = args
            is_one_call = values.dim() == 2 or (values.dim() == 3 and values.is_contiguous())
            if bias is not None and not is_one_call:
                return torch.matmul(values, weight.t()).add_(bias)
        return func(*args, **(kwargs or {}))


def _node_name() -> str:
    node = torch._C._current_autograd_node()
    return "" if node is None else str(node.name())


@functools.cache
def _name_of(func: Any) -> str:
    return str(func._schema.name).partition("::")[2]


def _may_hide(func: Any, leaves: Sequence[Any]) -> bool:
    """Whether a kernel may allocate more than its results: not where each element is made from its own alone."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    name = _name_of(func)
    if not tensors or _is_view(func) or name.startswith(_NOTHING_INSIDE) or name.endswith("_like"):
        return False
    if torch.Tag.pointwise in func.tags:
        dtypes = {tensor.dtype for tensor in tensors if tensor.dim()}
        return len(dtypes) > 1 or any(dtype.is_complex for dtype in dtypes)  # an operand is cast as a whole
    if name in _MATMULS:
        is_single = all(tensor.dtype in {torch.float32, torch.float64} for tensor in tensors)
        return not is_single or not all(_is_matrix(tensor) for tensor in tensors)
    return True


@functools.cache
def _is_composite(func: Any) -> bool:
    """Whether an operator is nothing but others, and has no kernel of its own beside them."""
    if not isinstance(func, torch._ops.OpOverload) or func.namespace not in _LIBRARIES:
        return False  # a question to a tensor, or an operator of the user's
    if not any("Tensor" in str(one.type) for one in func._schema.returns):
        return False
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return has_kernel(func.name(), "CompositeImplicitAutograd") and not has_kernel(func.name(), "CPU")


@functools.cache
def _is_view(func: Any) -> bool:
    return any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns)


def _is_matrix(tensor: Tensor) -> bool:
    """Whether a library reads it as it is: rows or columns that lie close together."""
    if tensor.dim() < 2:
        return True
    (n_rows, n_columns), (row, column) = tensor.shape[-2:], tensor.stride()[-2:]
    return (column == 1 and row >= n_columns) or (row == 1 and column >= n_rows)


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is a block of numbers on the CPU: not sparse, nested or quantized."""
    is_block = tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_quantized
    return is_block and tensor.device.type == "cpu"


def _fingerprint(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), leaf.stride() if _is_plain(leaf) else None, leaf.dtype
    return type(leaf), str(leaf)


def _run_alone(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> _Found:
    """What one call allocates, on tensors with data: ones, and zeros for whole numbers, which may be indices."""
    with torch._C._DisableTorchDispatch(), no_functions():  # gradients on or off as in the step
        real_args, real_kwargs = tree_map(_with_data, (tuple(args), kwargs))
        with tensor_peak() as counted:
            result = func(*real_args, **real_kwargs)
        results = [
            _Made(tuple(leaf.shape), leaf.stride(), leaf.untyped_storage().nbytes())
            if isinstance(leaf, Tensor)
            else None
            for leaf in tree_leaves(result)
        ]
    assert counted.peak_bytes is not None
    assert counted.left_bytes is not None
    return _Found(counted.peak_bytes - counted.left_bytes, results)


def _with_data(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    made = torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="cpu")
    return made.fill_(1 if leaf.dtype.is_floating_point or leaf.dtype.is_complex else 0)
