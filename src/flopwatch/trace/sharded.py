"""DTensor: what is recorded is this rank's own work; the whole mesh's stands beside it, and the two are never added.

A DTensor hands its operators on to the local tensors of its rank, and those are what the recorder sees. The same
operators at their global sizes are what one device would do.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from flopwatch.errors import InputError
from flopwatch.tally import Tally
from flopwatch.trace.cost import Operator, tensors_in
from flopwatch.trace.formulas import Call


class ShardedWork:
    """Matmul FLOPs of operators on DTensors at their global sizes, by phase."""

    def __init__(self) -> None:
        self.global_flops = Tally()
        self._without_size: set[str] = set()

    @property
    def was_seen(self) -> bool:
        """Whether any operator on a DTensor ran."""
        return bool(self.global_flops)

    def note(self, operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any], phase: str) -> None:
        """Note an operator that a DTensor is about to hand on; other wrappers are none of this."""
        sharded = [tensor for tensor in tensors_in(args) if is_sharded(tensor)]
        if not sharded:
            return
        if any(isinstance(tensor._local_tensor, FakeTensor) for tensor in sharded):  # type: ignore[attr-defined]
            raise InputError(
                "a DTensor over fake tensors cannot be counted: its own bookkeeping looks like the model's work",
                hint="trace DTensors over tensors on meta or with data",
            )
        work = operator.work_at_sizes(Call(args, kwargs, None))
        if work is None and operator.formula is not None:
            self._without_size.add(operator.name)
        self.global_flops = self.global_flops + {phase: work.flops if work is not None else 0}

    def notes(self) -> set[str]:
        """What a reader of the counts must know."""
        found = set()
        if self.was_seen:
            found.add(
                "DTensor: counts are this rank's own work; sharded_flops holds the same operators at global sizes"
            )
        if self._without_size:
            found.add(
                f"sharded_flops leave out {', '.join(sorted(self._without_size))}: their global sizes are not known"
            )
        return found


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether this is a DTensor (asked without loading torch's distributed part)."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)
