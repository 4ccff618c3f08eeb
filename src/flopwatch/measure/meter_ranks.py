"""Ranks: how many processes a run has, and what their figures are together: tokens summed, the slowest step taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from flopwatch.errors import InputError
from flopwatch.fields import is_whole

_MOST_DIGITS: Final = 9  # more ranks than there are devices


class Ranks(msgspec.Struct, frozen=True, kw_only=True):
    """The processes of a run. `ranks_per_replica` of them work on the same tokens (tensor, pipeline, context).

    `n_devices` is what the user said of all ranks together, None where nothing was said.
    """

    rank: int = 0
    world_size: int = 1
    devices_per_rank: int = 1
    ranks_per_replica: int = 1
    n_devices: int | None = None

    def of_world(self, world_size: int) -> Ranks:
        """The same run with as many ranks as there turn out to be, in a group that was made after the meter.

        Raises InputError where they cannot share `n_devices`, or make no whole replicas.
        """
        environment = {"RANK": str(min(self.rank, world_size - 1)), "WORLD_SIZE": str(world_size)}
        return find_ranks(environment, n_devices=self.n_devices, ranks_per_replica=self.ranks_per_replica)


def find_ranks(environment: Mapping[str, str], *, n_devices: int | None = None, ranks_per_replica: int = 1) -> Ranks:
    """The ranks that RANK and WORLD_SIZE tell of, one device each unless `n_devices` (of all ranks) says otherwise."""
    world_size = _number(environment, "WORLD_SIZE", default=1, least=1)
    rank = _number(environment, "RANK", default=0, least=0)
    if rank >= world_size:
        raise InputError(f"RANK={rank} is not below WORLD_SIZE={world_size}", hint="torchrun sets both")
    n_all = world_size if n_devices is None else n_devices
    if not is_whole(n_all, least=1) or n_all % world_size:
        raise InputError(
            f"n_devices={n_devices!r} is no multiple of WORLD_SIZE={world_size}",
            hint="it counts the devices of all ranks together",
        )
    if not is_whole(ranks_per_replica, least=1) or world_size % ranks_per_replica:
        raise InputError(
            f"ranks_per_replica={ranks_per_replica!r} does not divide WORLD_SIZE={world_size}",
            hint="it is tensor x pipeline x context parallel size: the ranks that work on the same tokens",
        )
    return Ranks(
        rank=rank,
        world_size=world_size,
        devices_per_rank=n_all // world_size,
        ranks_per_replica=ranks_per_replica,
        n_devices=n_devices,
    )


def _number(environment: Mapping[str, str], name: str, *, default: int, least: int) -> int:
    text = environment.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or len(text) > _MOST_DIGITS or int(text) < least:
        raise InputError(
            f"{name}={text[: _MOST_DIGITS + 1]!r} is not a whole number from {least} on", hint="torchrun sets it"
        )
    return int(text)


class RankTotals(msgspec.Struct, frozen=True, kw_only=True):
    """What one rank did in a span of steps. FLOPs and peak are None where they are not known.

    `active_s` is the time of the counted steps in the span; `counted_s`, `warmup_s` and `paused_s` are the whole run's.
    """

    n_steps: int
    active_s: float
    n_tokens: int
    model_flops: float | None
    hardware_flops: float | None
    peak_flops_per_s: float | None
    counted_s: float
    warmup_s: float
    paused_s: float

    def to_row(self) -> tuple[float | None, ...]:
        """The figures in the order of the fields, as plain numbers that any transport carries."""
        return msgspec.structs.astuple(self)


def totals_of_row(row: Sequence[float | None]) -> RankTotals:
    """The figures that another rank sent with `to_row`."""
    return msgspec.convert(dict(zip(RankTotals.__struct_fields__, row, strict=True)), RankTotals)


def scalars(rows: Sequence[RankTotals], ranks: Ranks) -> dict[str, float]:
    """The figures of a span as `perf/...` scalars; a figure that is not known has no key.

    `rows` are all ranks of the run, or only the own one, which tells figures for each device alone. A step takes as
    long as its slowest rank, and its tokens are those of all ranks. Each rank's figures are taken for one step first:
    ranks may have finished their warm-up at different steps.
    """
    rows = [row for row in rows if row.n_steps > 0 and row.active_s > 0]
    if not rows:
        return {}
    step_s = max(row.active_s / row.n_steps for row in rows)
    n_devices = len(rows) * ranks.devices_per_rank
    tokens_per_s = sum(row.n_tokens / row.n_steps for row in rows) / ranks.ranks_per_replica / step_s
    found = {"perf/step_s": step_s, "perf/tokens_per_s_per_device": tokens_per_s / n_devices}
    if len(rows) == ranks.world_size:
        found["perf/tokens_per_s"] = tokens_per_s
    if ranks.world_size > 1 and len(rows) == ranks.world_size:
        slowest = max(range(len(rows)), key=lambda rank: rows[rank].active_s / rows[rank].n_steps)
        found["perf/slowest_rank"] = float(slowest)
    found |= _utilization(rows, ranks, step_s)
    whole_s = sum(row.counted_s + row.warmup_s + row.paused_s for row in rows)
    found["perf/goodput"] = sum(row.counted_s for row in rows) / whole_s
    return found


def _utilization(rows: Sequence[RankTotals], ranks: Ranks, step_s: float) -> dict[str, float]:
    """FLOP/s of a device, MFU and HFU, as far as every rank knows its FLOPs and its peak."""
    model = [row.model_flops / row.n_steps for row in rows if row.model_flops is not None]
    hardware = [row.hardware_flops / row.n_steps for row in rows if row.hardware_flops is not None]
    peaks = [row.peak_flops_per_s for row in rows if row.peak_flops_per_s is not None]
    if len(model) < len(rows) or len(hardware) < len(rows):
        return {}
    model_flops_per_s = sum(model) / ranks.ranks_per_replica / step_s
    hardware_flops_per_s = sum(hardware) / ranks.ranks_per_replica / step_s
    found = {"perf/model_flops_per_s_per_device": model_flops_per_s / (len(rows) * ranks.devices_per_rank)}
    if len(peaks) == len(rows):
        peak_flops_per_s = sum(peaks) * ranks.devices_per_rank
        found["perf/mfu"] = model_flops_per_s / peak_flops_per_s
        found["perf/hfu"] = hardware_flops_per_s / peak_flops_per_s
    return found
