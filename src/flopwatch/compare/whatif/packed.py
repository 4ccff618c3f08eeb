"""Coefficients as plain data for a page: each polynomial once, and everything else by its number."""

from __future__ import annotations

from typing import Any

from flopwatch.compare.whatif.coefficients import Coefficients, StepForms, StepMoments
from flopwatch.compare.whatif.memory import Moment, Moments
from flopwatch.compare.whatif.polynomial import Polynomial
from flopwatch.compare.whatif.work import OpForm, StepOps


def packed(model: Coefficients) -> dict[str, Any]:
    """The coefficients of a model as report/templates/whatif.js reads them."""
    table: dict[Polynomial, int] = {}

    def number(polynomial: Polynomial) -> int:
        return table.setdefault(polynomial, len(table))

    def op(form: OpForm) -> list[int]:
        flags = int(form.is_layers) + 2 * int(form.is_experts)
        return [form.calls, number(form.flops), number(form.cold), number(form.warm), flags]

    def ops(step: StepOps | None) -> list[list[list[int]]] | None:
        return None if step is None else [[op(form) for form in forms] for forms in (step.forward, step.backward)]

    def forms(step: StepForms) -> list[list[list[list[int]]] | None]:
        return [ops(step.within), ops(step.beyond)]

    def rows(moments: list[Moment]) -> list[list[int]]:
        return [[number(part) for part in moment] for moment in moments]

    def moments(at: Moments | None) -> list[Any] | None:
        return None if at is None else [at.rows_multiple_of, rows(at.step), rows(at.update)]

    def memory(step: StepMoments) -> list[Any]:
        return [moments(step.one), moments(step.more), step.why_not]

    spec = model.spec
    data: dict[str, Any] = {
        "model": spec.name,
        "max_seq_len": spec.max_seq_len,
        "n_params": model.n_params,
        "window": spec.window,
        "experts": None if spec.moe is None else [spec.moe.n_experts, spec.moe.experts_per_token],
        "work": {
            phase: [number(work.forward), number(work.backward), number(work.recompute), number(work.in_kernel)]
            for phase, work in model.work.items()
        },
        "ops": {key: forms(step) for key, step in model.ops.items()},
        "why_no_ops": model.why_no_ops,
        "update_bytes": model.update_bytes,
        "memory": {key: memory(step) for key, step in model.memory.items()},
    }
    return data | {"polynomials": [_short(polynomial) for polynomial in table]}


def _short(polynomial: Polynomial) -> list[float]:
    """Without the zeros at its end."""
    kept = list(polynomial)
    while kept and kept[-1] == 0:
        kept.pop()
    return kept
