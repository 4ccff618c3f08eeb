"""Work that is no matmul: operations of elementwise, reducing and normalising operators, and what only moves data.

An elementwise operator counts as one operation an output element, whether it adds or takes a tanh; a reduction as one
an input element; softmax and normalisations as the few passes that they make. These never mix into matmul FLOPs.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, Final, NamedTuple

import torch


class Tensors(NamedTuple):
    """The tensors of one call: those that it reads, and those that it makes or changes."""

    inputs: Sequence[torch.Tensor]
    outputs: Sequence[torch.Tensor]


_NO_WORK: Final = frozenset({"profiler", "_c10d_functional", "_c10d_functional_autograd", "c10d", "_dtensor"})
"""Namespaces whose operators mark, send or receive: what they move is in their bytes."""

VectorFormula = Callable[[Tensors], int]
_REDUCTION: Final = torch.Tag.reduction if hasattr(torch.Tag, "reduction") else None


@functools.cache
def _table() -> tuple[dict[str, int], dict[str, int], frozenset[str]]:
    """Operations by name for each input element and for each result element, and the names that do none."""
    text = resources.files("flopwatch.trace").joinpath("vector.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    per_input, per_output = (
        {name: entry["operations"] for entry in data[kind] for name in entry["names"]}
        for kind in ("per_input", "per_output")
    )
    return per_input, per_output, frozenset(data["moves"]["names"])


def vector_formula(func: Any) -> VectorFormula | None:
    """How many operations one call of an operator is; None for one that is neither elementwise nor known."""
    per_input, per_output, moves = _table()
    namespace, _, packet_name = func._schema.name.partition("::")
    if packet_name in moves or namespace in _NO_WORK:
        return lambda _: 0
    if packet_name in per_input:
        return _per_input(per_input[packet_name])
    if packet_name in per_output:
        return _per_output(per_output[packet_name])
    if packet_name == "_cdist_forward":
        return _distances
    if packet_name.startswith("_foreach_"):
        return _per_first_list
    if _is_tagged(func, torch.Tag.pointwise) or packet_name.rstrip("_") in per_output:
        return _per_output(1)
    if _REDUCTION is not None and _is_tagged(func, _REDUCTION):
        return _per_input(1)
    twin = _functional_twin(func, packet_name) or _twin_of_prim(namespace, packet_name)
    return None if twin is None else vector_formula(twin)


def _is_tagged(func: Any, tag: torch.Tag) -> bool:
    """Whether torch says so of any overload of an operator (it leaves some of them untagged)."""
    packet = func.overloadpacket
    return any(tag in getattr(packet, name).tags for name in packet.overloads())


def _functional_twin(func: Any, packet_name: str) -> Any:
    """The functional form of an in-place operator of aten (torch leaves some in-place ones untagged)."""
    if func._schema.name.startswith("aten::") and packet_name.endswith("_") and not packet_name.endswith("__"):
        packet = getattr(torch.ops.aten, packet_name[:-1], None)
        return None if packet is None else getattr(packet, packet.overloads()[0])
    return None


def _twin_of_prim(namespace: str, packet_name: str) -> Any:
    """aten's operator of the same name as one of prims, which decompositions under torch.func are made of."""
    packet = getattr(torch.ops.aten, packet_name, None) if namespace == "prims" else None
    return None if packet is None else getattr(packet, packet.overloads()[0])


def _per_input(weight: int) -> VectorFormula:
    return lambda tensors: weight * (tensors.inputs[0].numel() if tensors.inputs else 0)


def _per_output(weight: int) -> VectorFormula:
    return lambda tensors: weight * (tensors.outputs[0].numel() if tensors.outputs else 0)


def _per_first_list(tensors: Tensors) -> int:
    """A `_foreach_` operator over lists of tensors: one operation an element of its results, or of what it changes."""
    return sum(tensor.numel() for tensor in tensors.outputs or tensors.inputs)


def _distances(tensors: Tensors) -> int:
    return 3 * tensors.outputs[0].numel() * tensors.inputs[0].shape[-1]  # subtract, power, add
