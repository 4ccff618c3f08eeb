"""What autograd knows while an operator runs: torch's private names for it, all in this one file (a test checks each).

`sequence_number()` is the number that the next autograd node of this thread will get: a node made for an operator has
the number before it while the operator runs. `graph_task()` is the number of the backward pass that runs in this
thread, -1 outside of one. `current_node()` is the autograd node that a backward pass is evaluating, or None.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch.autograd import _get_sequence_nr  # type: ignore[attr-defined]

_autograd: Any = torch.autograd
NO_TASK: Final = -1
NO_NUMBER: Final = 2**64 - 1
"""The number of every AccumulateGrad node: it belongs to a leaf, not to an operator."""

sequence_number: Callable[[], int] = _get_sequence_nr
graph_task: Callable[[], int] = torch._C._current_graph_task_id
current_node: Callable[[], Any] = torch._C._current_autograd_node


def node_number(node: Any) -> int:
    """The sequence number of an autograd node."""
    number: int = node._sequence_nr()
    return number


def accumulated_leaf(node: Any) -> torch.Tensor:
    """The leaf whose gradient an AccumulateGrad node (one with NO_NUMBER) adds up."""
    leaf: torch.Tensor = node.variable
    return leaf


@contextlib.contextmanager
def engine_runs_in(mode: contextlib.AbstractContextManager[Any]) -> Iterator[None]:
    """While this is entered, a backward pass runs with `mode` on, though the call that starts it runs without.

    torch switches a function mode off while that mode handles `Tensor.backward` or `torch.autograd.grad`; the
    recomputation of a checkpoint within would go unseen.
    """
    original = _autograd._engine_run_backward

    def run(*args: Any, **kwargs: Any) -> Any:
        with mode:
            return original(*args, **kwargs)

    _autograd._engine_run_backward = run
    try:
        yield
    finally:
        _autograd._engine_run_backward = original
