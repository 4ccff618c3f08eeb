"""Trace: everything that one step did, and its totals."""

from __future__ import annotations

import dataclasses
import functools
import html
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from flopwatch.errors import DoesNotFitError
from flopwatch.record import Uncounted
from flopwatch.tally import Tally
from flopwatch.trace.attention import AttentionCall
from flopwatch.trace.attribution import FORWARD
from flopwatch.trace.hidden import hidden_note
from flopwatch.trace.modules import ModuleNames
from flopwatch.trace.recorder import Row
from flopwatch.trace.storages import StorageLog
from flopwatch.trace.views import Groups, WorkRow, at_depth, count_groups, operator_name, sum_by
from flopwatch.units import format_bytes, format_flops

Work = tuple[str, str, str | None, int, int]
"""What one call of an operator costs: its name, phase, dtype, FLOPs (in the kernel too), and bytes that it moves."""


class UncountedError(DoesNotFitError):
    """Work that looks like a matmul was not counted, and a complete count was asked for (exit code 3)."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OpCall:
    """One operator as it ran: `index` is its place in the trace, the one that memory events refer to."""

    index: int
    op: str
    module: str
    phase: str
    flops: int
    in_kernel_flops: int
    vector_ops: int
    dtype: str | None
    read_bytes: int
    written_bytes: int


class Trace:
    """What a step did, operator by operator, and the views of it. Counts are matmul FLOPs unless the name says else.

    `total` is what MFU counts, `hardware_total` what HFU counts. With DTensors all counts are this rank's own, and
    `sharded_flops` has the same operators at their global sizes, by phase. `memory` holds the births and deaths of
    storages (None when they were not asked for). `notes` say where a count rests on an assumption, and which
    operators take memory that its events do not show.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        names: ModuleNames,
        *,
        memory: StorageLog | None,
        notes: Sequence[str],
        sharded_flops: Tally,
    ) -> None:
        self.rows = rows
        self.memory = memory
        hidden = None if memory is None else hidden_note(cost.op for cost, _, _ in rows)
        self.notes = (*notes, *(() if hidden is None else (hidden,)))
        self.sharded_flops = sharded_flops
        self._names = names

    @functools.cached_property
    def _groups(self) -> Groups:
        return count_groups(self.rows)

    @functools.cached_property
    def sums(self) -> WorkRow:
        """All of the step in one row."""
        return sum_by(self._groups, lambda *_: "all").get("all", WorkRow())

    @functools.cached_property
    def modules(self) -> dict[str, WorkRow]:
        """Work by module path, each operator under the innermost module that called it."""
        return sum_by(self._groups, lambda _, place: self._names.label(place))

    @property
    def total(self) -> int:
        """FLOPs of forward and backward: what the task needs (MFU)."""
        return self.sums.model_flops

    @property
    def hardware_total(self) -> int:
        """FLOPs of forward, backward, recomputation and a fused kernel's own recomputation (HFU)."""
        return self.sums.model_flops + self.sums.recompute + self.sums.in_kernel

    @property
    def forward(self) -> Tally:
        """FLOPs of the forward pass by module."""
        return self._tally("forward")

    @property
    def backward(self) -> Tally:
        """FLOPs of the backward pass by module, without anything that is computed a second time."""
        return self._tally("backward")

    @property
    def recompute(self) -> Tally:
        """FLOPs of checkpointed forwards that backward runs again, by module."""
        return self._tally("recompute")

    @property
    def in_kernel(self) -> Tally:
        """FLOPs that fused attention kernels compute again within their backward, by module."""
        return self._tally("in_kernel")

    @property
    def optimizer(self) -> Tally:
        """Matmul FLOPs of the weight update by module (0 for AdamW and SGD)."""
        return self._tally("optimizer")

    def _tally(self, column: str) -> Tally:
        return Tally({path: row.to_dict()[column] for path, row in self.modules.items() if row.to_dict()[column]})

    @property
    def vector_ops(self) -> int:
        """Elementwise, reducing and normalising operations: no part of any FLOPs here."""
        return self.sums.vector_ops

    @property
    def bytes(self) -> int:
        """Bytes that all operators read and write, each as if nothing stayed in cache."""
        return self.sums.moved_bytes

    @property
    def arithmetic_intensity(self) -> float | None:
        """Matmul FLOPs that ran for each byte moved; None where nothing moved."""
        return self.sums.hardware_flops / self.bytes if self.bytes else None

    def by_module(self, depth: int | None = None) -> dict[str, WorkRow]:
        """Work by module path cut to its first `depth` pieces; the rows sum to the totals."""
        merged: dict[str, WorkRow] = {}
        for path, row in self.modules.items():
            key = at_depth(path, depth)
            merged[key] = merged[key] + row if key in merged else row
        return merged

    def by_operator(self) -> dict[str, WorkRow]:
        """Work by operator, all matmuls of attention calls under `scaled_dot_product_attention`."""
        rows = sum_by(self._groups, operator_name)
        return dict(sorted(rows.items(), key=lambda item: -item[1].hardware_flops))

    def by_dtype(self) -> dict[str, WorkRow]:
        """Work by the dtype that it runs in; operators without a tensor argument stand under `none`."""
        return sum_by(self._groups, lambda cost, _: cost.dtype or "none")

    @functools.cached_property
    def attention(self) -> dict[AttentionCall, int]:
        """Calls of `scaled_dot_product_attention` in the forward pass, equal ones together."""
        calls: Counter[AttentionCall] = Counter()
        seen: set[int] = set()
        for (cost, place, phase), n in self._groups.items():
            if place.attention is not None and phase == FORWARD and cost.flops and id(place) not in seen:
                seen.add(id(place))
                calls[place.attention] += n
        return dict(calls)

    @functools.cached_property
    def uncounted(self) -> list[Uncounted]:
        """Operators that no formula knows, with their calls; those that look like a matmul first."""
        calls: Counter[tuple[bool, str]] = Counter()
        for (cost, _, _), n in self._groups.items():
            if cost.is_uncounted:
                calls[not cost.looks_like_matmul, cost.op] += n
        return [
            Uncounted(op=op, calls=n, looks_like_matmul=not is_other) for (is_other, op), n in sorted(calls.items())
        ]

    @property
    def coverage(self) -> str:
        """`complete`; `complete for matmuls` when only other work went uncounted; or `incomplete`."""
        if any(entry.looks_like_matmul for entry in self.uncounted):
            return "incomplete"
        return "complete for matmuls" if self.uncounted else "complete"

    def check_complete(self) -> None:
        """Raise UncountedError (exit code 3) when anything that looks like a matmul was not counted."""
        missing = [f"{entry.op} ({entry.calls} calls)" for entry in self.uncounted if entry.looks_like_matmul]
        if missing:
            raise UncountedError(
                f"not counted, and it looks like a matmul: {', '.join(missing)}",
                hint="give its FLOPs with formulas={torch.ops....: function}",
            )

    def operators(self) -> Iterator[OpCall]:
        """Every operator in the order it ran (views of tensors do no work and are left out)."""
        for index, (cost, place, phase) in enumerate(self.rows):
            yield OpCall(
                index=index,
                op=cost.op,
                module=self._names.label(place),
                phase=phase,
                flops=cost.flops,
                in_kernel_flops=cost.in_kernel_flops,
                vector_ops=cost.vector_ops,
                dtype=cost.dtype,
                read_bytes=cost.read_bytes,
                written_bytes=cost.written_bytes,
            )

    def distinct(self) -> Counter[Work]:
        """How often each operator ran, equal calls together: what a roofline needs."""
        return Counter(
            (call.op, call.phase, call.dtype, call.flops + call.in_kernel_flops, call.read_bytes + call.written_bytes)
            for call in self.operators()
            if not call.op.endswith("._unsafe_view")  # no view to autograd, but it moves nothing
        )

    def to_dict(self) -> dict[str, Any]:
        """Totals, modules, operators, dtypes and what was not counted, as plain data."""
        return {
            "flops": {
                "forward": self.sums.forward,
                "backward": self.sums.backward,
                "recompute": self.sums.recompute,
                "in_kernel": self.sums.in_kernel,
                "optimizer": self.sums.optimizer,
                "total": self.total,
            },
            "vector_ops": self.vector_ops,
            "read_bytes": self.sums.read_bytes,
            "written_bytes": self.sums.written_bytes,
            "coverage": self.coverage,
            "uncounted": [entry.to_dict() for entry in self.uncounted],
            "modules": {path: row.to_dict() for path, row in self.modules.items()},
            "operators": [{"op": op, **row.to_dict()} for op, row in self.by_operator().items()],
            "dtypes": {dtype: row.to_dict() for dtype, row in self.by_dtype().items()},
            "sharded_flops": self.sharded_flops.to_dict(),
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def to_markdown(self, depth: int = 2) -> str:
        """A table of modules (paths of `depth` pieces), and what was not counted below it."""
        lines = ["| module | forward | backward | recompute | in-kernel | bytes moved |", "|---|--:|--:|--:|--:|--:|"]
        lines += [f"| {' | '.join(cells)} |" for cells in self._cells(depth)]
        lines += ["", f"Coverage: {self.coverage}."]
        lines += [f"- not counted: `{entry.op}`, {entry.calls} calls" for entry in self.uncounted]
        return "\n".join([*lines, *(f"- {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        """The table of modules for a notebook."""
        head = "".join(
            f"<th>{name}</th>" for name in ("module", "forward", "backward", "recompute", "in-kernel", "bytes")
        )
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
            for cells in self._cells(depth=2)
        )
        missing = "".join(f"<li>not counted: {html.escape(e.op)}, {e.calls} calls</li>" for e in self.uncounted)
        return f"<table><tr>{head}</tr>{rows}</table><p>Coverage: {self.coverage}</p><ul>{missing}</ul>"

    def __repr__(self) -> str:
        return (
            f"Trace({len(self.rows)} operators, forward {format_flops(self.sums.forward)}, "
            f"backward {format_flops(self.sums.backward)}, coverage {self.coverage})"
        )

    def _cells(self, depth: int) -> list[list[str]]:
        rows = [*self.by_module(depth).items(), ("total", self.sums)]
        return [
            [
                path,
                format_flops(row.forward),
                format_flops(row.backward),
                format_flops(row.recompute),
                format_flops(row.in_kernel),
                format_bytes(row.moved_bytes),
            ]
            for path, row in rows
        ]
