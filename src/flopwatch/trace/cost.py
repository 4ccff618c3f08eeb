"""What one call of an operator costs: matmul FLOPs, vector operations, dtype, bytes; all from its tensors' shapes."""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch._subclasses.fake_tensor import FakeTensor

from flopwatch.trace.formulas import Call, Formula, ValueDependentError, Work
from flopwatch.trace.storages import stored_elements
from flopwatch.trace.vector import Tensors, VectorFormula, vector_formula
from flopwatch.trace.without_data import bare_call

_DTYPES: Final = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.float8_e4m3fn: "fp8",
    torch.float8_e5m2: "fp8",
}
_MATMUL_WORDS: Final = (
    *("mm", "matmul", "linear", "conv", "attention", "einsum", "lstm", "gru", "rnn", "dot", "solve"),
    *("attn", "sdpa", "mlp", "ffn", "moe", "expert", "triton"),
)
_MATMUL_WORDS_LINALG: Final = ("linalg", "cholesky", "svd", "qr", "eig", "lu_", "inverse", "det")
# Only the rows that are asked for are read of the table that is the first argument.
_GATHERS: Final = frozenset({"embedding", "index", "index_select", "gather", "_unsafe_index", "take"})
_OVERWRITES: Final = frozenset(
    {"copy_", "fill_", "zero_", "uniform_", "normal_", "random_", "bernoulli_", "exponential_"}
)
_NATIVE: Final = frozenset({"aten", "prims"})
_SIZES: Final = ("size", "stride", "storage_offset", "numel", "dim")
_QUERIES: Final = frozenset(
    {"prim::device", "prim::layout", "aten::is_contiguous", "aten::sym_is_contiguous", "aten::is_strides_like_format"}
    | {"aten::is_non_overlapping_and_dense"}
    | {f"aten::{prefix}{name}" for prefix in ("", "sym_") for name in _SIZES}
)


class Kind(enum.Enum):
    """How an operator treats its tensors: decides what the recorder may remember of it."""

    VIEW = "makes another view of a tensor: no work, no memory"
    FUNCTIONAL = "makes new tensors out of others"
    IN_PLACE = "changes its first argument and returns it"
    OTHER = "anything else: it is always run"
    COMPOSITE = "is made of other operators"
    QUERY = "asks a tensor for its size, device or layout: no work at all"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OpCost:
    """What one call costs. Calls with equal shapes, strides, dtypes and arguments share one OpCost.

    `flops` are matmul FLOPs that the task needs, `in_kernel_flops` those that a fused kernel does again,
    `vector_ops` everything that is no matmul. `is_uncounted`: no formula knows this operator.
    """

    op: str
    flops: int = 0
    in_kernel_flops: int = 0
    vector_ops: int = 0
    dtype: str | None = None
    read_bytes: int = 0
    written_bytes: int = 0
    is_uncounted: bool = False
    looks_like_matmul: bool = False


class Operator:
    """What is known of one operator overload: its name, its kind, and the formulas that count it."""

    __slots__ = ("call", "formula", "func", "is_composite", "is_native", "kind", "mutated", "name", "vector")

    def __init__(self, func: Any, formulas: Mapping[Any, Formula]) -> None:
        self.func = func
        self.call = bare_call(func)
        self.is_native = False  # one of torch's own: nothing of a user's runs inside it
        self.formula: Formula | None = formulas.get(func)
        if isinstance(func, torch._ops.HigherOrderOperator):
            self.name: str = func.name()
            self.kind = Kind.OTHER
            self.mutated: tuple[int, ...] = ()
            self.vector: VectorFormula | None = None
            self.is_composite = False
            return
        if self.formula is None:
            self.formula = formulas.get(func.overloadpacket)
        schema = func._schema
        self.is_native = func.namespace in _NATIVE
        self.name = schema.name.replace("::", ".")
        self.mutated = tuple(
            index
            for index, arg in enumerate(schema.arguments)
            if arg.alias_info is not None and arg.alias_info.is_write
        )
        self.is_composite = _is_composite(func)
        self.kind = _kind(func, self.mutated, is_taken_apart=self.is_composite and self.formula is None)
        self.vector = vector_formula(func)

    def cost(self, call: Call) -> OpCost:
        """The cost of one call."""
        args = call.args
        inputs = list(tensors_in(args)) + list(tensors_in(tuple(call.kwargs.values())))
        changed = list(tensors_in([args[index] for index in self.mutated if index < len(args)]))
        outputs = changed or list(tensors_in((call.out,)))
        read_bytes, written_bytes = self._bytes(inputs, outputs)
        work = self._work(call)
        vector_ops = 0
        if work is None and self.vector is not None:
            vector_ops = self.vector(Tensors(inputs, outputs))
        is_uncounted = work is None and self.vector is None
        return OpCost(
            op=self.name,
            flops=work.flops if work is not None else 0,
            in_kernel_flops=work.in_kernel_flops if work is not None else 0,
            vector_ops=vector_ops,
            dtype=_dtype_name(inputs),
            read_bytes=read_bytes,
            written_bytes=written_bytes,
            is_uncounted=is_uncounted,
            looks_like_matmul=is_uncounted
            and (
                _looks_like_matmul(self.name, inputs, outputs)
                or (not self.is_native and _may_contract(inputs, outputs))
            ),
        )

    def work_at_sizes(self, call: Call) -> Work | None:
        """The Work of a call whose result is not known yet; None where a formula needs it, or there is none."""
        try:
            return self._work(call)
        except AttributeError:  # the formula asked None for its shape
            return None

    def _work(self, call: Call) -> Work | None:
        if self.formula is None or any(is_nested(tensor) for tensor in tensors_in(call.args)):
            return None
        try:
            return self.formula(call)
        except ValueDependentError:
            return None

    def _bytes(self, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> tuple[int, int]:
        base_name = self.name.partition(".")[2]
        written = sum(tensor_bytes(tensor) for tensor in outputs)
        if base_name in _GATHERS and inputs:
            return written + sum(tensor_bytes(tensor) for tensor in inputs[1:]), written
        if base_name in _OVERWRITES:
            inputs = inputs[1:]
        return sum(tensor_bytes(tensor) for tensor in inputs), written


def _is_composite(func: Any) -> bool:
    """Whether an operator is only a name for others (they come instead of it, but for inference mode).

    One with a kernel of its own beside them (silu_backward) runs as that kernel, and allocates what that needs.
    """
    if func._schema.name in _QUERIES:
        return False
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return has_kernel(func.name(), "CompositeImplicitAutograd") and not has_kernel(func.name(), "CPU")


def _kind(func: Any, mutated: tuple[int, ...], *, is_taken_apart: bool) -> Kind:
    schema = func._schema
    if schema.name in _QUERIES:
        return Kind.QUERY
    if is_taken_apart:
        return Kind.COMPOSITE
    never = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view}
    if never & set(func.tags):
        return Kind.OTHER
    aliases = any(returned.alias_info is not None for returned in schema.returns)
    if mutated:
        is_plain = mutated == (0,) and len(schema.returns) == 1 and aliases and schema.name.endswith("_")
        return Kind.IN_PLACE if is_plain else Kind.OTHER
    return Kind.VIEW if aliases else Kind.FUNCTIONAL


def tensors_in(values: Sequence[Any]) -> Iterator[torch.Tensor]:
    """The tensors among arguments, those in lists included."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def tensor_bytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's elements, those that a stride of 0 repeats once."""
    if is_nested(tensor):
        return tensor.numel() * tensor.element_size()
    if tensor.layout is not torch.strided:
        return stored_elements(tensor) * tensor.element_size()
    n = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        n *= size if stride or not size else 1
    return n * tensor.element_size()


def has_data(tensor: torch.Tensor) -> bool:
    """Whether a tensor's values can be read: not on meta, not fake."""
    return not tensor.is_meta and not isinstance(tensor, FakeTensor)


def is_nested(tensor: torch.Tensor) -> bool:
    """Whether this is one of torch's old nested tensors, which has no shape to count with."""
    return tensor.is_nested and tensor.layout is torch.strided


def dtype_name(dtype: torch.dtype) -> str:
    """`fp32`, `bf16`, `int8`, ... as the command line writes dtypes; torch's own name for the rest."""
    return _DTYPES.get(dtype, str(dtype).removeprefix("torch."))


def _dtype_name(inputs: Sequence[torch.Tensor]) -> str | None:
    """The dtype that an operator works in: that of its first floating-point input, or of its first input."""
    for tensor in inputs:
        if tensor.is_floating_point():
            return dtype_name(tensor.dtype)
    return dtype_name(inputs[0].dtype) if inputs else None


def _looks_like_matmul(name: str, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> bool:
    base_name = name.rpartition(".")[2].lower()
    if any(word in base_name for word in _MATMUL_WORDS + _MATMUL_WORDS_LINALG):
        return True
    matrices = [tensor.shape for tensor in inputs if _is_matrix(tensor) and not _is_integer(tensor)]
    results = [tensor.shape for tensor in outputs if _is_matrix(tensor)]
    return any(_contracts(left, right, results) for left in matrices for right in matrices if left is not right)


def _contracts(left: torch.Size, right: torch.Size, results: Sequence[torch.Size]) -> bool:
    """Whether a result has rows of `left` and columns of `right`, whose inner sizes match."""
    for inner, outer in ((right[-2], right[-1]), (right[-1], right[-2])):
        if inner == left[-1] and any(out[-1] == outer and out[-2] == left[-2] for out in results):
            return left != right or left[-1] == left[-2]
    return False


def _may_contract(inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> bool:
    """Whether an operator that nobody knows could sum products over a size that its inputs share (a fused FFN).

    Two inputs that share one and that no elementwise operator could combine; three alike, as queries, keys and values
    are; or a square result of one input's rows.
    """
    matrices = [tensor.shape for tensor in inputs if _is_matrix(tensor) and not _is_integer(tensor)]
    pairs = itertools.permutations(matrices, 2)
    if any(left[-1] in right[-2:] and not _broadcast(left, right) for left, right in pairs):
        return True
    if any(len(shape) > 2 and matrices.count(shape) > 2 for shape in matrices):
        return True
    squares = {out.shape[-1] for out in outputs if _is_matrix(out) and out.shape[-1] == out.shape[-2]}
    return any(shape[-2] in squares and shape[-1] != shape[-2] for shape in matrices)


def _broadcast(left: torch.Size, right: torch.Size) -> bool:
    """Whether two shapes can be combined element by element."""
    return all(a == b or 1 in {a, b} for a, b in zip(reversed(left), reversed(right), strict=False))


def _is_matrix(tensor: torch.Tensor) -> bool:
    return tensor.dim() >= 2 and not is_nested(tensor)


def _is_integer(tensor: torch.Tensor) -> bool:
    return tensor.dtype in {torch.int64, torch.int32, torch.int16, torch.bool}
