"""Operators over functions (cond, while_loop, scan, flex_attention): each piece is recorded as often as it runs.

`cond`, `while_loop` and `scan` are run as the plain Python that they stand for, above autograd, so that their backward
is recorded like any other. Where a choice hangs on a value that tensors without data do not have, `cond` counts the
branch with more work and says so, and `while_loop` is listed as uncounted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from torch._C import DispatchKey

from flopwatch.trace.cost import has_data

if TYPE_CHECKING:
    from flopwatch.trace.recorder import Recorder

UNROLLED: Final = frozenset({"cond", "while_loop", "scan"})
_OPAQUE: Final = frozenset({"flex_attention", "flex_attention_backward"})


def unroll(recorder: Recorder, name: str, args: Sequence[Any]) -> Any:
    """The result of `cond`, `while_loop` or `scan`, run as plain Python."""
    if name == "cond":
        return _cond(recorder, *args)
    if name == "while_loop":
        return _while_loop(recorder, *args)
    return _scan(*args)


def run_higher_order(recorder: Recorder, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The result of any other higher-order operator, the functions given to it recorded as they run."""
    dense = func.py_kernels.get(DispatchKey.CompositeExplicitAutograd)
    if dense is None or func.name() in _OPAQUE:
        result = (dense or func)(*args, **kwargs)
        recorder.record_call(func, args, kwargs, result)
        return result
    return dense(*(_recorded(recorder, arg) for arg in args), **kwargs)


def _recorded(recorder: Recorder, arg: Any) -> Any:
    """A function that is recorded while it runs; anything else as it is."""
    if not callable(arg) or isinstance(arg, torch.Tensor):
        return arg

    def function(*args: Any, **kwargs: Any) -> Any:
        with recorder:
            return arg(*args, **kwargs)

    return function


def _is_readable(value: Any) -> bool:
    return not isinstance(value, torch.Tensor) or has_data(value)


def _cond(recorder: Recorder, predicate: Any, true_branch: Any, false_branch: Any, operands: Sequence[Any]) -> Any:
    if _is_readable(predicate):
        return true_branch(*operands) if predicate else false_branch(*operands)
    before = len(recorder.rows)
    done = []
    for branch in (true_branch, false_branch):
        result = branch(*operands)
        done.append((recorder.take_since(before), result))
    rows, result = max(done, key=lambda pair: sum(row[0].flops for row in pair[0]))
    recorder.rows.extend(rows)
    recorder.notes.add("torch.cond on tensors without data: the branch with more work is counted")
    return result


def _while_loop(
    recorder: Recorder, condition: Any, body: Any, carried: Sequence[Any], additional: Sequence[Any] = (), *_: Any
) -> Any:
    if all(_is_readable(value) for value in (*carried, *additional)):
        while condition(*carried, *additional):
            carried = body(*carried, *additional)
        return tuple(carried)
    before = len(recorder.rows)
    result = body(*carried, *additional)  # one turn, for the shapes of the result; how many there are nobody knows
    has_matmul = any(row[0].flops or row[0].looks_like_matmul for row in recorder.take_since(before))
    recorder.record_uncounted("while_loop", looks_like_matmul=has_matmul)
    return tuple(result)


def _scan(combine: Any, init: Sequence[Any], xs: Sequence[Any], additional: Sequence[Any] = ()) -> Any:
    carry, steps = list(init), []
    for turn in range(xs[0].shape[0]):
        out = combine(*carry, *(x[turn] for x in xs), *additional)
        carry = list(out[: len(carry)])
        steps.append(out[len(carry) :])
    return [*carry, *(torch.stack(parts) for parts in zip(*steps, strict=True))]
