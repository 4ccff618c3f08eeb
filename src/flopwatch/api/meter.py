"""fw.Meter: the speed of the user's own training loop, from what a user can say of its model, device and ranks."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from flopwatch.api.count import resolve_spec
from flopwatch.cost.convention import DEFAULT, Convention
from flopwatch.errors import InputError
from flopwatch.measure import meter
from flopwatch.measure.meter_cost import StepCost, cost_of_numbers, cost_of_spec, unknown_cost
from flopwatch.measure.meter_peak import find_peak
from flopwatch.measure.meter_ranks import find_ranks
from flopwatch.model.spec import ModelSpec

MeterWarning = meter.MeterWarning


class Meter(meter.Meter):
    """Tokens/s, MFU, HFU and goodput of a training loop: call `step` after each update of the weights.

    FLOPs come from `model` (a spec, or a name that `load_spec` knows) in closed form, or are given:
    `flops_per_token` of a training step, at `seq_len`, such as `fw.trace(step).total / tokens`. Without either,
    tokens/s are all that is told. `seq_len` is the length of the sequences that `step(tokens=)` speaks of.

    The peak is `peak_flops_per_s` of one device, or the published one of `device` (a name in the catalogue, or `auto`,
    `cpu`, `cuda`, ...) for `dtype`; `why_no_mfu` says why there is none. RANK and WORLD_SIZE tell the ranks, of one
    device each unless `n_devices` (of all ranks) says otherwise; `ranks_per_replica` of them share their tokens.
    """

    def __init__(
        self,
        model: str | ModelSpec | None = None,
        *,
        seq_len: int | None = None,
        flops_per_token: float | None = None,
        hardware_flops_per_token: float | None = None,
        attention_flops_per_pair: float | None = None,
        convention: str | Convention | None = None,
        recompute: str = "none",
        uses_flash: bool = False,
        device: str = "auto",
        dtype: str = "bf16",
        peak_flops_per_s: float | None = None,
        n_devices: int | None = None,
        ranks_per_replica: int = 1,
        window_steps: int = 20,
        warmup_steps: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        numbers = {
            "hardware_flops_per_token": hardware_flops_per_token,
            "attention_flops_per_pair": attention_flops_per_pair,
        }
        if flops_per_token is None and any(value is not None for value in numbers.values()):
            given = next(name for name, value in numbers.items() if value is not None)
            raise InputError(f"{given} without flops_per_token says nothing", hint="give both")
        cost: StepCost
        if flops_per_token is not None:
            _check_numbers_alone(model, convention, recompute, uses_flash=uses_flash, hardware=hardware_flops_per_token)
            cost = cost_of_numbers(flops_per_token, seq_len=seq_len, **numbers)
        elif model is not None:
            cost = cost_of_spec(
                _spec_of(model),
                seq_len=seq_len,
                convention=convention or DEFAULT,
                recompute=recompute,
                uses_flash=uses_flash,
            )
        else:
            if convention is not None or recompute != "none" or uses_flash:
                text = f"convention={convention}, recompute={recompute}, uses_flash={uses_flash}"
                raise InputError(f"{text} say how a model is counted, and there is none", hint="give a model")
            cost = unknown_cost("no model and no flops_per_token was given", seq_len=seq_len)
        super().__init__(
            cost=cost,
            peak=find_peak(str(device), dtype=dtype, peak_flops_per_s=peak_flops_per_s),
            ranks=find_ranks({**os.environ, **_group()}, n_devices=n_devices, ranks_per_replica=ranks_per_replica),
            window_steps=window_steps,
            warmup_steps=warmup_steps,
            clock=clock,
            exchange=all_ranks,
        )


def _spec_of(model: object) -> ModelSpec:
    """The spec of a model; one of the user's own has none, and its trace tells its FLOPs."""
    if isinstance(model, str | ModelSpec | os.PathLike):
        return resolve_spec(model)
    raise InputError(
        f"a {type(model).__name__} has no closed form",
        hint="give Meter a name, a path or a ModelSpec, or flops_per_token=fw.trace(step).total / tokens and seq_len=",
    )


def _check_numbers_alone(
    model: str | ModelSpec | None,
    convention: str | Convention | None,
    recompute: str,
    *,
    uses_flash: bool,
    hardware: float | None,
) -> None:
    """Refuse what a number cannot honour: the number already holds, or cannot know, what was asked for."""
    if model is not None:
        raise InputError("model and flops_per_token both say the FLOPs", hint="give one of them")
    if convention is not None:
        raise InputError("convention cannot change flops_per_token", hint="give a model, or the number alone")
    if (recompute != "none" or uses_flash) and hardware is not None:
        raise InputError("hardware_flops_per_token already holds recompute and uses_flash", hint="leave them out")
    if recompute != "none" or uses_flash:
        raise InputError(
            f"recompute={recompute}, uses_flash={uses_flash} cannot be worked out from flops_per_token",
            hint="give hardware_flops_per_token, such as fw.trace(step).hardware_total / tokens",
        )


def _distributed() -> Any:
    """torch.distributed with a process group, or None; never imports torch, which a loop that has a group did."""
    module = sys.modules.get("torch.distributed")
    if module is None or not module.is_available() or not module.is_initialized():
        return None
    return module


def _group() -> dict[str, str]:
    """RANK and WORLD_SIZE of the process group, which may know better than the environment."""
    distributed = _distributed()
    if distributed is None:
        return {}
    return {"RANK": str(distributed.get_rank()), "WORLD_SIZE": str(distributed.get_world_size())}


def all_ranks(row: meter.Row) -> Sequence[meter.Row] | None:
    """The rows of all ranks, each of which must call this; None where there is no process group."""
    distributed = _distributed()
    if distributed is None:
        return None
    rows: list[meter.Row] = [()] * distributed.get_world_size()
    distributed.all_gather_object(rows, row)
    return rows
