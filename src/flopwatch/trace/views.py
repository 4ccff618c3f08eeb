"""Views of a trace: its operators summed by module, operator and dtype. Rows always sum to the totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import msgspec

from flopwatch.trace.attention import OPERATOR
from flopwatch.trace.attribution import BACKWARD, FORWARD, OPTIMIZER, RECOMPUTE
from flopwatch.trace.cost import OpCost
from flopwatch.trace.modules import Place
from flopwatch.trace.recorder import Row

Groups = Mapping[tuple[OpCost, Place, str], int]
"""(cost, place, phase) -> calls."""


class WorkRow(msgspec.Struct, frozen=True, kw_only=True):
    """Work of one module, operator or dtype. FLOPs are matmul FLOPs by phase; `vector_ops` are all that is no matmul.

    `in_kernel` is what fused attention computes again within its backward: with `recompute` it is the hardware's work
    and not the model's. Bytes are those that the operators read and write, each counted as if nothing stayed in cache.
    """

    forward: int = 0
    backward: int = 0
    recompute: int = 0
    in_kernel: int = 0
    optimizer: int = 0
    vector_ops: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    calls: int = 0

    @property
    def model_flops(self) -> int:
        """Forward and backward: what MFU counts."""
        return self.forward + self.backward

    @property
    def hardware_flops(self) -> int:
        """Every matmul FLOP that ran: what HFU counts, and the optimizer's."""
        return self.model_flops + self.recompute + self.in_kernel + self.optimizer

    @property
    def moved_bytes(self) -> int:
        """Bytes read and written."""
        return self.read_bytes + self.written_bytes

    def __add__(self, other: WorkRow) -> WorkRow:
        mine, theirs = msgspec.structs.asdict(self), msgspec.structs.asdict(other)
        return WorkRow(**{name: mine[name] + theirs[name] for name in mine})

    def to_dict(self) -> dict[str, int]:
        """All figures as plain data."""
        return msgspec.structs.asdict(self)


def count_groups(rows: Iterable[Row]) -> Groups:
    """Equal rows together, in the order of their first appearance."""
    return Counter(rows)


def sum_by(groups: Groups, name_of: Callable[[OpCost, Place], str]) -> dict[str, WorkRow]:
    """Work by any name that a row has."""
    sums: dict[str, list[int]] = {}
    for (cost, place, phase), calls in groups.items():
        name = name_of(cost, place)
        row = sums.get(name)
        if row is None:
            row = sums[name] = [0] * 9
        row[_COLUMN[phase]] += cost.flops * calls
        row[3] += cost.in_kernel_flops * calls
        row[5] += cost.vector_ops * calls
        row[6] += cost.read_bytes * calls
        row[7] += cost.written_bytes * calls
        row[8] += calls
    return {name: WorkRow(**dict(zip(_FIELDS, row, strict=True))) for name, row in sums.items()}


_FIELDS = WorkRow.__struct_fields__
_COLUMN = {FORWARD: 0, BACKWARD: 1, RECOMPUTE: 2, OPTIMIZER: 4}


def operator_name(cost: OpCost, place: Place) -> str:
    """The name that an operator is summed under: all matmuls of one attention call are that attention."""
    return OPERATOR if place.attention is not None and cost.flops else cost.op


def at_depth(path: str, depth: int | None) -> str:
    """The first `depth` pieces of a module path."""
    return path if depth is None else ".".join(path.split(".")[:depth])
