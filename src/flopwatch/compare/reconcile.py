"""Closed form against trace, term by term: which part of the network the two do not agree on, and by how much.

A module's path says which terms of the closed form it computes. Where one module computes several terms (a fused
query-key-value projection), or several modules one term (all experts), the terms that hang together are compared as
one group, so that every row is a sum of whole modules against a sum of whole terms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from flopwatch.cost.flops import StepFlops

PHASES: Final = ("forward", "backward", "recompute", "in_kernel")
_SCORES: Final = ("layers.attention.scores", "layers.attention.values")
_ATTENTION: Final = frozenset({"attention", "self_attn", "attn", "self_attention", "linear_attn"})
_FFN: Final = frozenset({"ffn", "mlp", "feed_forward", "ffn_block"})
_MOE: Final = frozenset({"moe", "experts", "block_sparse_moe"})
_SHARED: Final = frozenset({"shared", "shared_expert", "shared_experts", "shared_mlp"})
# Last piece of a module's path -> the matrices it is, in the words of the closed form.
_ATTENTION_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "q": ("q",),
    "q_proj": ("q",),
    "k": ("k",),
    "k_proj": ("k",),
    "v": ("v",),
    "v_proj": ("v",),
    **dict.fromkeys(("c_attn", "qkv_proj", "query_key_value", "Wqkv", "qkv"), ("q", "k", "v")),
    **dict.fromkeys(("out", "o_proj", "out_proj", "dense", "c_proj"), ("out",)),
    **dict.fromkeys(("q_down", "q_a_proj"), ("q_down",)),
    **dict.fromkeys(("q_up", "q_b_proj"), ("q_up",)),
    **dict.fromkeys(("kv_down", "kv_a_proj_with_mqa"), ("kv_down",)),
    **dict.fromkeys(("kv_up", "kv_b_proj"), ("kv_up",)),
}
_FFN_NAMES: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("gate", "gate_proj", "w1"), ("gate",)),
    **dict.fromkeys(("up", "up_proj", "w3", "c_fc", "dense_h_to_4h", "fc1", "fc_in"), ("up",)),
    **dict.fromkeys(("down", "down_proj", "w2", "c_proj", "dense_4h_to_h", "fc2", "fc_out"), ("down",)),
    **dict.fromkeys(("gate_up_proj",), ("gate", "up")),
    **dict.fromkeys(("experts",), ("gate", "up", "down")),
}
_ROUTERS: Final = frozenset({"router", "gate"})
_SHARED_ROUTERS: Final = frozenset({"shared_gate", "shared_expert_gate"})
_OTHER: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("head", "lm_head", "embed_out", "output"), ("head",)),
    "project_in": ("embedding.projection",),
    "project_out": ("head_projection",),
}


class TermRow(msgspec.Struct, frozen=True, kw_only=True):
    """One group of terms in one phase: FLOPs of the closed form and of the trace, and the modules that were counted.

    `terms` is empty for modules that no term of the closed form stands for; `modules` for terms that nothing computed.
    """

    phase: str
    terms: tuple[str, ...]
    modules: tuple[str, ...]
    closed_form: int
    traced: int

    @property
    def difference(self) -> int:
        """What the trace has more."""
        return self.traced - self.closed_form

    @property
    def name(self) -> str:
        """The group as a reader sees it: `layers.attention.q + k + v`."""
        if not self.terms:
            return f"not in the closed form: {', '.join(self.modules)}"
        head, *rest = self.terms
        return " + ".join([head, *(term.rpartition(".")[2] for term in rest)])

    def to_dict(self) -> dict[str, object]:
        """The row as plain data."""
        return {
            "name": self.name,
            "phase": self.phase,
            "terms": list(self.terms),
            "modules": list(self.modules),
            "closed_form": self.closed_form,
            "traced": self.traced,
            "difference": self.difference,
        }


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """Every group of terms in every phase, the largest disagreement first, then the largest term."""

    rows: tuple[TermRow, ...]

    @property
    def is_exact(self) -> bool:
        """Whether closed form and trace agree to the integer in every row."""
        return all(row.difference == 0 for row in self.rows)

    @property
    def disagreements(self) -> tuple[TermRow, ...]:
        """The rows that do not agree, the largest first."""
        return tuple(row for row in self.rows if row.difference)

    def total(self, phase: str) -> tuple[int, int]:
        """FLOPs of a phase: of the closed form, and of the trace."""
        rows = [row for row in self.rows if row.phase == phase]
        return sum(row.closed_form for row in rows), sum(row.traced for row in rows)

    def to_dict(self) -> dict[str, object]:
        """All rows as plain data."""
        return {"is_exact": self.is_exact, "rows": [row.to_dict() for row in self.rows]}


def reconcile(closed_form: StepFlops, modules: Mapping[str, Mapping[str, int]]) -> Reconciliation:
    """The closed form of a step against the modules of its trace (path -> FLOPs by phase), largest disagreement first.

    Knows the module names of the reference network and of Hugging Face transformers.
    """
    kinds = {path: _without_numbers(path) for path in modules}
    terms_of = {kind: terms_of_module(kind) for kind in kinds.values()}
    known = {term for phase in PHASES for term in _tally(closed_form, phase)}
    groups = _groups([*terms_of.values(), *((term,) for term in known)])
    rows = []
    for phase in PHASES:
        closed, traced, names = dict.fromkeys(groups, 0), dict.fromkeys(groups, 0), _names(groups)
        for term, flops in _tally(closed_form, phase).items():
            closed[_group_of(groups, term)] += flops
        strangers: dict[str, int] = {}
        for path, flops_by_phase in modules.items():
            flops, kind = flops_by_phase.get(phase, 0), kinds[path]
            if flops and not terms_of[kind]:
                strangers[kind] = strangers.get(kind, 0) + flops
            elif flops:
                group = _group_of(groups, terms_of[kind][0])
                traced[group] += flops
                names[group].setdefault(kind)
        rows += [_row(phase, group, names[group], closed[group], traced[group]) for group in groups]
        rows += [_row(phase, (), (kind,), 0, flops) for kind, flops in strangers.items()]
    seen = [row for row in rows if row.closed_form or row.traced]
    return Reconciliation(rows=tuple(sorted(seen, key=_rank)))


def _rank(row: TermRow) -> tuple[int, int, int, str]:
    """The order of rows: disagreement, then size, the largest first; equal ones by phase and name."""
    return -abs(row.difference), -max(row.closed_form, row.traced), PHASES.index(row.phase), row.name


def terms_of_module(path: str) -> tuple[str, ...]:
    """The terms of the closed form that a module computes itself, by its path without numbers; () for none."""
    pieces = path.split(".")
    last, above = pieces[-1], frozenset(pieces)
    if above & _ATTENTION:
        if last in _ATTENTION or last == "core":
            return _SCORES
        if last in _ATTENTION_NAMES:
            return tuple(f"layers.attention.{name}" for name in _ATTENTION_NAMES[last])
    if last in _SHARED_ROUTERS:
        return ("layers.shared.router_gate",)
    if above & _SHARED:
        return tuple(f"layers.shared.{name}" for name in _FFN_NAMES.get(last, ()))
    if above & _MOE and (last not in _ROUTERS or "experts" in above):
        return tuple(f"layers.moe.{name}" for name in _FFN_NAMES.get(last, ()))
    if last in _ROUTERS and "ffn" not in above:
        return ("layers.moe.router",)
    if above & _FFN or last in {"fc1", "fc2"}:
        return tuple(f"layers.ffn.{name}" for name in _FFN_NAMES.get(last, ()))
    return _OTHER.get(last, ())


def _tally(closed_form: StepFlops, phase: str) -> Mapping[str, int]:
    tallies = {
        "forward": closed_form.forward,
        "backward": closed_form.backward,
        "recompute": closed_form.recompute,
        "in_kernel": closed_form.in_kernel,
    }
    return tallies[phase]


def _without_numbers(path: str) -> str:
    return ".".join(piece for piece in path.split(".") if not piece.isdecimal())


def _groups(links: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Terms that some module computes together, joined until no two groups share one."""
    groups: list[set[str]] = []
    for link in links:
        joined = set(link)
        apart = [group for group in groups if not group & joined]
        for group in groups:
            if group & joined:
                joined |= group
        groups = [*apart, joined] if joined else apart
    return tuple(tuple(sorted(group)) for group in groups)


def _group_of(groups: Iterable[tuple[str, ...]], term: str) -> tuple[str, ...]:
    return next(group for group in groups if term in group)


def _names(groups: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], dict[str, None]]:
    return {group: {} for group in groups}


def _row(phase: str, terms: tuple[str, ...], modules: Iterable[str], closed_form: int, traced: int) -> TermRow:
    return TermRow(phase=phase, terms=terms, modules=tuple(modules), closed_form=closed_form, traced=traced)
