"""Peak memory for any batch and sequence length: the moments of a step at which it can be highest, as polynomials.

A step is written out (cost/eager) at sizes that stand for themselves, so the bytes alive at each moment are
polynomials; those below another everywhere are left out. Batch 1 is written out on its own, because some copies are
views there.

Only a few layers are written out. What happens in a layer repeats in those like it, and the bytes alive at the same
moment of the layers between the first and the last grow, or fall, evenly from one to the next: the highest of them is
at the ends. So a network of five periods of layers has every moment that matters of any depth, and a period that is
no neighbour of the moment shows what each further one adds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
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
_PERIODS: Final = 5  # that are written out: two at each end, and one between them
_MIDDLE: Final = 2

Moment = tuple[Polynomial, ...]
"""Bytes alive, by part in the order of PARTS."""


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
    for phase, bytes_by_part in _moments(spec, sizes.of(workload), device_type):
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


def _moments(spec: ModelSpec, workload: Workload, device_type: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The phase of each moment before something is released, and its bytes by part, numbers that hold polynomials."""
    usual: AdamW = "foreach" if device_type == "cuda" else "single"
    tuning = Tuning(adamw=usual if workload.adamw == "auto" else workload.adamw)
    first, period = _repetition(spec)
    n_more = max(0, (spec.n_layers - first) // period - _PERIODS)
    if n_more:
        spec = msgspec.structs.replace(spec, n_layers=spec.n_layers - n_more * period)
    tape = step_tape(spec, workload, device_type=device_type, tuning=tuning)
    places = [None if layer is None else max(0, (layer - first) // period) for layer in _layers(tape.blocks)]
    yield from _walk(tape, places, n_more=n_more)


def _repetition(spec: ModelSpec) -> tuple[int, int]:
    """Layers before the kinds of layer repeat, and after how many they do; all of them where they do not."""
    period = len(spec.window_pattern)
    if spec.moe is None:
        return 0, period
    if spec.moe.dense_layers:
        return spec.n_layers, 1
    return spec.moe.first_dense_layers, math.lcm(period, spec.moe.layer_step)


def _walk(tape: Tape, places: list[int | None], *, n_more: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every moment before something is released, with what `n_more` periods between the ends have on top.

    `places` are the periods of the blocks (None: outside of the layers). What a further period has at a moment is what
    one of those written out has that is not beside it: a neighbour may hold what is on its way through. The moments of
    the middle period are left out where there are more: the same of one near an end is at least as high.
    """
    parts = [PARTS.index(block.part) for block in tape.blocks]
    alive = [0] * len(PARTS)
    alive_in = {place: [0] * len(PARTS) for place in range(_PERIODS)}
    for event, following in zip(tape.events, [*tape.events[1:], -1], strict=True):
        number = event if event >= 0 else ~event
        place, part = places[number], parts[number]
        n_bytes = tape.blocks[number].n_bytes if event >= 0 else -tape.blocks[number].n_bytes
        alive[part] += n_bytes
        if place in alive_in:
            alive_in[place][part] += n_bytes
        if not event >= 0 > following:
            continue
        if not n_more:
            yield tape.blocks[number].phase, tuple(alive)
        elif place != _MIDDLE:
            like = _MIDDLE if place is None else _MIDDLE + 1 if place < _MIDDLE else _MIDDLE - 1
            further = zip(alive, alive_in[like], strict=True)
            yield tape.blocks[number].phase, tuple(here + n_more * each for here, each in further)


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
