"""Peak memory for any batch and sequence length: the moments of a step at which it can be highest, as polynomials.

A step is written out (cost/eager) at sizes that stand for themselves, so the bytes alive at each moment are
polynomials; those below another everywhere are left out. Batch 1 is written out on its own, because some copies are
views there.

Only a few layers are written out. What happens in a layer repeats in those like it, and the bytes alive at the same
moment of the layers between the first and the last grow, or fall, evenly from one to the next: the highest of them is
at the ends. So two short networks, one a period of layers longer than the other, give every moment that matters of any
depth.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from flopwatch.compare.whatif.polynomial import Polynomial, Sizes, from_least, undominated
from flopwatch.cost.eager.tape import Block, Tape
from flopwatch.cost.eager.tuning import AdamW, Tuning
from flopwatch.cost.memory import step_tape
from flopwatch.model.spec import ModelSpec
from flopwatch.workload import Workload

PARTS: Final = ("weights", "gradients", "optimizer", "activations", "logits", "temporary")
"""The parts of a peak that tensors make up, in the order of a moment's polynomials."""

LEAST_SEQ_LEN: Final = 2
"""A sequence of one token takes other ways through the network."""

_LAYER: Final = re.compile(r"layers\.(\d+)")
_SHORT: Final = 3  # periods written out: a first, one between, a last
_WORTH_IT: Final = 2 * _SHORT + 2  # periods from which on two short networks are less work than the whole one

Moment = tuple[Polynomial, ...]
"""Bytes alive, by part in the order of PARTS."""
_Key = tuple[str, str, int, int]


class Moments(msgspec.Struct, frozen=True, kw_only=True):
    """The moments at which a step can need most: those of the step, and those of AdamW's update of the weights.

    The optimizer's part of `step` is AdamW's moments: without AdamW it is nothing, and so is `update`. They hold where
    the rows of a step are a multiple of `rows_multiple_of` (0: always).
    """

    step: list[Moment]
    update: list[Moment]
    rows_multiple_of: int = 0


def moments_of(spec: ModelSpec, workload: Workload, *, device_type: str, is_batch_one: bool) -> Moments:
    """The moments of one step of `workload`, whatever its sizes; an AdamW without a name is torch's on the device.

    Raises SpecError for what cannot be estimated, NotPolynomialError where no polynomials are found.
    """
    unit = 1 if spec.moe is None else spec.moe.n_experts
    sizes = Sizes(unit=unit, is_batch_one=is_batch_one)
    step: dict[tuple[int, ...], None] = {}
    update: dict[tuple[int, ...], None] = {}
    for (phase, *_), bytes_by_part in _moments(spec, sizes.of(workload), device_type).items():
        (update if phase == "optimizer" else step)[bytes_by_part] = None
    is_one_row = is_batch_one and workload.phase == "decode"  # one row, whatever the sequence
    return Moments(
        step=_highest(list(step), sizes),
        update=_highest(list(update), sizes),
        rows_multiple_of=0 if spec.moe is None or is_one_row else unit // math.gcd(unit, spec.moe.experts_per_token),
    )


def _highest(moments: list[tuple[int, ...]], sizes: Sizes) -> list[Moment]:
    """The moments that can be the highest, as polynomials."""
    least_batch = 1 if sizes.is_batch_one else 2
    totals = [from_least(sizes.read(sum(parts)), least_batch, LEAST_SEQ_LEN) for parts in moments]
    return [tuple(sizes.read(n_bytes) for n_bytes in moments[place]) for place in undominated(totals)]


def _moments(spec: ModelSpec, workload: Workload, device_type: str) -> Mapping[_Key, tuple[int, ...]]:
    """Bytes alive by part at each moment before something is released, as numbers that hold their polynomials."""
    usual: AdamW = "foreach" if device_type == "cuda" else "single"
    tuning = Tuning(adamw=usual if workload.adamw == "auto" else workload.adamw)

    def written(n_layers: int) -> Tape:
        cut = spec if n_layers == spec.n_layers else msgspec.structs.replace(spec, n_layers=n_layers)
        return step_tape(cut, workload, device_type=device_type, tuning=tuning)

    first, period = _repetition(spec)
    n_periods, rest = divmod(spec.n_layers - first, period)
    if n_periods < _WORTH_IT:
        return dict(_walk(written(spec.n_layers), n_first=spec.n_layers, n_last=0))
    ends = {"n_first": first + 2 * period, "n_last": 2 * period + rest}
    short = dict(_walk(written(first + _SHORT * period + rest), **ends))
    longer = dict(_walk(written(first + (_SHORT + 1) * period + rest), **ends))
    if short.keys() != longer.keys():  # depth changes more than how often layers repeat: nothing is left out
        return dict(_walk(written(spec.n_layers), n_first=spec.n_layers, n_last=0))
    n_more = n_periods - _SHORT
    return {
        key: tuple(a + n_more * (b - a) for a, b in zip(parts, longer[key], strict=True))
        for key, parts in short.items()
    }


def _repetition(spec: ModelSpec) -> tuple[int, int]:
    """Layers before the kinds of layer repeat, and after how many they do; all of them where they do not."""
    period = len(spec.window_pattern)
    if spec.moe is None:
        return 0, period
    if spec.moe.dense_layers:
        return spec.n_layers, 1
    return spec.moe.first_dense_layers, math.lcm(period, spec.moe.layer_step)


def _walk(tape: Tape, *, n_first: int, n_last: int) -> Iterator[tuple[_Key, tuple[int, ...]]]:
    """Every moment before something is released, and the bytes alive then.

    The key says where it is, the same in a deeper network: the phase, the layer counted from the first or from the
    last (none: outside the layers; a layer between: no key), and the number of the allocation in that layer.
    """
    layers = list(_layers(tape.blocks))
    n_layers = 1 + max(layer for layer in layers if layer is not None)
    parts = [PARTS.index(block.part) for block in tape.blocks]
    numbers: dict[tuple[str, int | None], int] = {}
    alive = [0] * len(PARTS)
    events = tape.events
    for event, following in zip(events, [*events[1:], -1], strict=True):
        if event < 0:
            alive[parts[~event]] -= tape.blocks[~event].n_bytes
            continue
        block, layer = tape.blocks[event], layers[event]
        alive[parts[event]] += block.n_bytes
        number = numbers[block.phase, layer] = numbers.get((block.phase, layer), 0) + 1
        if following >= 0:
            continue
        if layer is None:
            yield (block.phase, "", 0, number), tuple(alive)
            continue
        if layer < n_first:
            yield (block.phase, "first", layer, number), tuple(alive)
        if n_layers - layer <= n_last:
            yield (block.phase, "last", n_layers - layer, number), tuple(alive)


def _layers(blocks: list[Block]) -> Iterator[int | None]:
    """The layer that each block belongs to: by the name of its module, or by its turn where it has none."""
    n_states = n_caches = 0
    known: dict[str, int | None] = {}
    for block in blocks:
        if block.op == "get_rng_state":
            yield n_states
            n_states += 1
        elif block.op == "kv_cache":
            yield n_caches // 2  # keys, values
            n_caches += 1
        else:
            if block.module not in known:
                found = _LAYER.match(block.module)
                known[block.module] = int(found[1]) if found else None
            yield known[block.module]
