"""Where an operator belongs: its module and its phase, also in a backward pass, whatever checkpointing there is.

A forward operator notes which autograd node was made for it; in a backward pass the node that is being evaluated leads
back to the module. Operators that run in a backward pass below a module that was called in it, or with gradients
switched on, are recomputation. `autograd_names.py` holds the private names that this needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import get_ident
from typing import Final

import torch

from flopwatch.trace.autograd_names import (
    NO_NUMBER,
    NO_TASK,
    accumulated_leaf,
    current_node,
    graph_task,
    node_number,
    sequence_number,
)
from flopwatch.trace.modules import ModuleNames, ModuleStack, Place

FORWARD: Final = "forward"
BACKWARD: Final = "backward"
RECOMPUTE: Final = "recompute"
OPTIMIZER: Final = "optimizer"
PHASES: Final = (FORWARD, BACKWARD, RECOMPUTE, OPTIMIZER)
_is_grad_enabled: Final = torch.is_grad_enabled


class Attribution:
    """Place and phase of the operator that runs now."""

    def __init__(self, names: ModuleNames, stack: ModuleStack) -> None:
        self.n_optimizers = 0  # optimizer steps that are under way
        self.creates_graph = False  # a backward pass that is itself differentiated has gradients switched on
        self._names = names
        self._stack = stack
        self._places: dict[int, Place] = {}
        self._was_backward = False
        self._last_place = names.outside
        self._home = get_ident()
        self._elsewhere: dict[int, Place] = {}  # nodes made by a backward thread of its own (a device's)
        self._recompute_task = NO_TASK

    def forward_begins(self) -> None:
        """A module is called from outside of all others: what came before it is over."""
        self._was_backward = False
        self._elsewhere.clear()

    def note_view(self) -> None:
        """Remember where the node of a view belongs; a view itself does no work."""
        task = graph_task()
        if task == NO_TASK:
            self._places.setdefault(sequence_number() - 1, self._stack.place)
        elif self._stack.task == task:
            self._note_recomputed(task, self._stack.place)

    def where(self) -> tuple[Place, str]:
        """The place and phase of the operator that runs now."""
        stack = self._stack
        task = graph_task()
        if task == NO_TASK:
            place = stack.place
            self._places.setdefault(sequence_number() - 1, place)
            if not stack.stack:
                if (self.n_optimizers or self._was_backward) and not _is_grad_enabled():
                    return place, OPTIMIZER
                return place, FORWARD
            if self.n_optimizers and not _is_grad_enabled():
                return place, OPTIMIZER
            return place, FORWARD
        self._was_backward = True
        if stack.task == task:
            self._note_recomputed(task, stack.place)
            return stack.place, RECOMPUTE
        place = self._place_of_node(task)
        if _is_grad_enabled() and not self.creates_graph:
            self._note_recomputed(task, place)
            return place, RECOMPUTE
        return place, BACKWARD

    def _note_recomputed(self, task: int, place: Place) -> None:
        """Remember whose nodes a recomputation makes: a reentrant checkpoint runs a backward pass over them."""
        if get_ident() == self._home:
            self._places.setdefault(sequence_number() - 1, place)
        else:
            self._recompute_task = task
            self._elsewhere[sequence_number() - 1] = place

    def _place_of_node(self, task: int) -> Place:
        node = current_node()
        if node is None:  # the engine adds two gradients up between nodes
            return self._last_place
        number = node_number(node)
        if number == NO_NUMBER:
            place = self._names.place_of_parameter(accumulated_leaf(node))
        else:
            places = self._places
            if self._elsewhere and get_ident() != self._home and task > self._recompute_task:
                places = self._elsewhere
            place = places.get(number)
            if place is None:
                place = _nearest(places, number)
        if place is not None:
            self._last_place = place
        return self._last_place


def _nearest(places: Mapping[int, Place], number: int) -> Place | None:
    """The place of the last operator before a node that made no operator of its own (an in-place change of a view)."""
    for earlier in range(number - 1, max(-2, number - 1000), -1):
        place = places.get(earlier)
        if place is not None:
            return place
    return None
