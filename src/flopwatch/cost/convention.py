"""Conventions by name, shipped or a user's own, and the FLOPs of a step as one of them counts it."""

from __future__ import annotations

import difflib
import functools
import importlib.resources
import tomllib
from collections.abc import Mapping
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any, Final

import msgspec

from flopwatch.cost.convention_fields import Again, Attention, Convention
from flopwatch.cost.flops import (
    StepFlops,
    active_matmul_weights,
    forward_flops,
    head_weights,
    last_matmuls,
    mtp_weights,
)
from flopwatch.errors import InputError
from flopwatch.model.params import count_active_params, count_params
from flopwatch.model.spec import ModelSpec
from flopwatch.tally import Tally
from flopwatch.workload import Workload

__all__ = [
    "DEFAULT",
    "Again",
    "Convention",
    "convention_names",
    "count_flops",
    "find_convention",
    "flops_per_token",
    "group_of",
    "load_conventions",
]

DEFAULT: Final = "matmul"
_HEAD: Final = ("head", "head_projection", "mtp.head")
_ATTENTION: Final = (".attention.scores", ".attention.values")
_ROUTER: Final = (".router", ".router_gate")
_EXAMPLE: Final = (
    'write one like [mine] title = "..." source = "..." attention = "causal" weights = "matmul" (docs/conventions.md)'
)


def convention_names() -> list[str]:
    """The names of the conventions that flopwatch ships, the default first."""
    return list(_shipped())


def find_convention(name: str, more: Mapping[str, Convention] | None = None) -> Convention:
    """The convention of that name, shipped or from `more`; raises InputError with the nearest names."""
    known = {**_shipped(), **(more or {})}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}"
    raise InputError(f"no convention is called {name!r}", hint=hint)


def load_conventions(path: Path) -> dict[str, Convention]:
    """The conventions of a user's TOML file, one table each; raises InputError with file, key and reason.

    A name that flopwatch ships is refused, so that one name never means two counts.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # reading a pipe or a device would never end
            raise InputError(f"{path} is not a regular file", hint="give a readable TOML file")
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}", hint="give a readable TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}", hint=_EXAMPLE) from error
    if not tables:
        raise InputError(f"{path} holds no convention", hint=_EXAMPLE)
    for name in tables:
        if name in _shipped():
            raise InputError(f"{path}: {name} is a convention that flopwatch ships", hint="give yours another name")
    return {name: _from_table(name, table, str(path)) for name, table in tables.items()}


@functools.cache
def _shipped() -> dict[str, Convention]:
    text = importlib.resources.files("flopwatch.cost").joinpath("conventions.toml").read_text(encoding="utf-8")
    return {name: _from_table(name, table, "conventions.toml") for name, table in tomllib.loads(text).items()}


def _from_table(name: str, table: Any, path: str) -> Convention:
    if not isinstance(table, dict):
        raise InputError(f"{path}: {name} is not a table", hint=_EXAMPLE)
    if "name" in table:
        raise InputError(f"{path}: {name}.name: the name is the table's header", hint="leave it out")
    try:
        return msgspec.convert({"name": name, **table}, Convention)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$")
        key = ".".join(part for part in (name, where.rstrip("`").lstrip(".")) if part)
        raise InputError(f"{path}: {key}: {text[0].lower()}{text[1:]}", hint=_EXAMPLE) from error


def count_flops(
    spec: ModelSpec,
    workload: Workload,
    convention: Convention | str = DEFAULT,
    *,
    recompute: str | None = None,
) -> StepFlops:
    """FLOPs of one step by part as the convention counts them; under `matmul` exactly what `step_flops` gives.

    `recompute` names what is computed again in a training step, of the values the convention knows (`full`,
    `selective`, ...); left out, it is the workload's. Whole FLOPs: where a convention's share of a part is no whole
    number (the sc21 head of an odd d x V, PaLM's three quarters) that part is rounded down, by less than one FLOP.
    """
    rule = find_convention(convention) if isinstance(convention, str) else convention
    forward, again = _exact(spec, workload, rule, recompute or workload.recompute)
    in_kernel: dict[str, Fraction] = {}
    if rule.in_kernel and workload.is_train and workload.attention == "flash":
        in_kernel = {name: n for name, n in forward.items() if name.endswith(".attention.scores")}
    backward = {name: 2 * n for name, n in forward.items()} if workload.is_train else {}
    return StepFlops(
        forward=_whole(forward), backward=_whole(backward), recompute=_whole(again), in_kernel=_whole(in_kernel)
    )


def flops_per_token(
    spec: ModelSpec,
    seq_len: int,
    convention: Convention | str = DEFAULT,
    *,
    recompute: str = "none",
) -> Fraction:
    """FLOPs of a training step for each token, exact: model FLOPs, and with `recompute` what is computed again too."""
    rule = find_convention(convention) if isinstance(convention, str) else convention
    forward, again = _exact(spec, Workload(batch=1, seq_len=seq_len, phase="train"), rule, recompute)
    return (3 * sum(forward.values(), Fraction()) + sum(again.values(), Fraction())) / seq_len


def group_of(part: str) -> str:
    """What a part belongs to: `layers` (their weights), `attention` (scores and values), `head`, or the `rest`."""
    if part.endswith(_ATTENTION):
        return "attention"
    if part in _HEAD:
        return "head"
    return "layers" if part.startswith(("layers.", "mtp.layer.")) else "rest"


def _whole(parts: Mapping[str, Fraction]) -> Tally:
    return Tally({name: floor(n) for name, n in parts.items()})


def _exact(
    spec: ModelSpec, workload: Workload, rule: Convention, recompute: str
) -> tuple[dict[str, Fraction], dict[str, Fraction]]:
    """One forward pass by part, and what `recompute` computes again of it."""
    forward = _forward(spec, workload, rule)
    shares = rule.shares_again(recompute)
    if not workload.is_train and recompute != "none":
        raise InputError(
            f"recompute={recompute} has no meaning in phase {workload.phase}",
            hint="activations are recomputed in a backward pass: use phase train",
        )
    skipped = last_matmuls(spec) if rule.early_stop and recompute == "full" else ()
    again = {name: n * shares[group_of(name)] for name, n in forward.items() if name not in skipped}
    return forward, {name: n for name, n in again.items() if n}


def _forward(spec: ModelSpec, workload: Workload, rule: Convention) -> dict[str, Fraction]:
    if not rule.mtp:
        spec = msgspec.structs.replace(spec, n_mtp_layers=0)
    parts = {name: Fraction(n) for name, n in forward_flops(spec, workload).items()}
    if not rule.router:
        parts = {name: n for name, n in parts.items() if not name.endswith(_ROUTER)}
    if rule.ffn == "two-matrices":
        parts = {name: n for name, n in parts.items() if not name.endswith(".gate")}
    if rule.weights == "layers":
        parts = {name: n for name, n in parts.items() if group_of(name) in {"layers", "attention"}}
    if rule.head == "sc21":
        parts = {name: n * Fraction(3, 4) if group_of(name) == "head" else n for name, n in parts.items()}
    if rule.counts_parameters:
        parts = _with_parameters(spec, workload, rule, parts)
    for name in parts:
        if group_of(name) == "attention":
            parts[name] *= _share_of_scores(spec, workload, rule.attention, mtp=name.startswith("mtp."))
    return {name: n for name, n in parts.items() if n}


def _with_parameters(
    spec: ModelSpec, workload: Workload, rule: Convention, parts: dict[str, Fraction]
) -> dict[str, Fraction]:
    """`parts` and, besides, two FLOPs a token for every active parameter that no matmul has; each parameter once."""
    if workload.phase in {"prefill", "decode"}:  # multi-token prediction is for training
        spec = msgspec.structs.replace(spec, n_mtp_layers=0)
    table = count_params(spec)["embedding.tokens"]
    in_matmuls = active_matmul_weights(spec).total + head_weights(spec).total
    if spec.n_mtp_layers:
        in_matmuls += mtp_weights(spec).without("mtp.head").total
    besides = count_active_params(spec) - in_matmuls
    counted = {name: n for name, n in parts.items() if name != "mtp.head"}  # the same weights as the head
    if rule.weights == "no-positions":
        besides -= count_params(spec).get("embedding.positions", 0)
    if rule.weights != "no-input-embedding" and not spec.tied_head:
        besides -= table
        counted["embedding.tokens"] = Fraction(2 * _n_rows(workload) * table)
    elif rule.weights == "no-input-embedding" and spec.tied_head:
        counted.pop("head")  # 6(N - dV) takes away the only table there is, and the head's work with it
    elif rule.weights == "no-input-embedding":
        besides -= table
    counted["other_parameters"] = Fraction(2 * _n_rows(workload) * besides)
    return counted


def _n_rows(workload: Workload) -> int:
    return workload.batch * workload.n_accumulate * workload.n_queries


def _share_of_scores(spec: ModelSpec, workload: Workload, attention: Attention, *, mtp: bool) -> Fraction:
    """The scores that are counted, as a share of all T x T of them, over all layers (or the MTP modules)."""
    n_queries, n_keys = workload.n_queries, workload.seq_len
    everywhere = _scores(attention, n_queries, n_keys, None)
    n_windowed = 0 if mtp else spec.n_windowed_layers
    in_window = _scores(attention, n_queries, n_keys, spec.window) if n_windowed else Fraction()
    mean = (n_windowed * in_window + (spec.n_layers - n_windowed) * everywhere) / spec.n_layers
    return mean / (n_queries * n_keys)


def _scores(attention: Attention, n_queries: int, n_keys: int, window: int | None) -> Fraction:
    """Scores that one head of one layer is counted for; `window` None is a layer that sees everything.

    A single query (decode) is the last token and sees every key, so no mask takes anything from it.
    """
    if attention == "none":
        return Fraction()
    is_one_query = n_queries == 1 and n_keys > 1
    width = n_keys if window is None or attention in {"full", "causal", "causal-exact"} else min(window, n_keys)
    all_pairs = Fraction(n_queries * width)
    if attention in {"full", "window"} or is_one_query:
        return all_pairs
    is_exact = attention in {"causal-exact", "window-exact"} or (attention == "causal-window" and width < n_keys)
    if is_exact:
        return Fraction(width * (width + 1), 2) + (n_keys - width) * width
    return all_pairs / 2
