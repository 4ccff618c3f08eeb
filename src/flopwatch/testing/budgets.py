"""flopwatch_budget: a pytest fixture that keeps a model's FLOPs, memory and parameters within what was agreed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from flopwatch.api.count import count, resolve_spec
from flopwatch.api.memory import memory
from flopwatch.errors import InputError, MissingError
from flopwatch.model.spec import ModelSpec
from flopwatch.units import format_bytes, format_count, format_flops, format_percent, parse_bytes, parse_count
from flopwatch.workload import Workload

try:
    import pytest
except ImportError as error:
    raise MissingError("the budget fixture needs pytest", hint="pip install pytest") from error

_N_SHOWN: Final = 4
_N_STEPS: Final = 2  # an optimizer makes its state at the end of the first step: the second one shows the peak

Record = Callable[[str, object], None]
"""Takes the name and value of a figure for the test report."""


@pytest.fixture
def flopwatch_budget(request: pytest.FixtureRequest) -> Budget:
    """The Budget of a test; what it counts stands in the JUnit report too (`pytest --junitxml`).

    It is kept as pytest's `record_property` does, which warns with --junitxml, an error under `-W error`.
    """
    return Budget(record=lambda name, value: request.node.user_properties.append((name, value)))


class Budget:
    """Assertions on what a model costs, each counted without running it on data.

    A subject is a step (a callable without arguments, run on its own tensors: put them on `meta`), an nn.Module with
    the `args` and `kwargs` of its forward, or a ModelSpec or its name with a `workload`. Each returns what it counted.
    """

    def __init__(self, *, record: Record | None = None) -> None:
        self._record = record

    def assert_flops(
        self,
        subject: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        max_flops: float | str,
        phase: str | None = None,
        loss: Callable[[Any], Any] | None = None,
        workload: Workload | None = None,
    ) -> int:
        """Matmul FLOPs of forward and backward; fails above `max_flops` (a number, `1.5T` or `1.5 TFLOPs`).

        `phase` of a module is `forward` unless it is `train`, which starts from `loss(output)`. Raises UncountedError
        where something that looks like a matmul has no formula: a count that is not complete keeps no budget.
        """
        __tracebackhide__ = True
        limit = _limit(max_flops, lambda text: parse_count(text.strip().removesuffix("FLOPs")), "max_flops")
        if isinstance(subject, str | ModelSpec):
            result = count(subject, _workload_of(subject, args, kwargs, phase, loss, workload))
            parts: Mapping[str, int] = result.flops.parts
            total = result.flops.total
        else:
            traced = _traced(subject, args, kwargs, phase, loss, workload)
            traced.check_complete()
            parts = {path: row.model_flops for path, row in traced.by_module().items()}
            total = traced.total
        return self._check("flops", subject, total, limit, format_flops, parts)

    def assert_peak_bytes(
        self,
        subject: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        max_bytes: float | str,
        phase: str | None = None,
        loss: Callable[[Any], Any] | None = None,
        workload: Workload | None = None,
    ) -> int:
        """The peak of all tensors alive at once, the model's own included; fails above `max_bytes` (`2GiB`).

        A step is run twice, so that the optimizer's state is in it. What an allocator rounds up and a driver keeps for
        itself is not.
        """
        __tracebackhide__ = True
        limit = _limit(max_bytes, parse_bytes, "max_bytes")
        if isinstance(subject, str | ModelSpec):
            result = memory(subject, _workload_of(subject, args, kwargs, phase, loss, workload))
            peak_bytes, parts = result.peak_bytes, result.parts
        else:
            traced = _traced(subject, args, kwargs, phase, loss, workload, n_steps=_N_STEPS)
            if traced.memory is None:
                raise AssertionError("a trace keeps its memory events unless told otherwise")
            peak_bytes, parts = traced.memory.peak_bytes, {}
        return self._check("peak_bytes", subject, peak_bytes, limit, format_bytes, parts)

    def assert_params(self, subject: Any, *, max_params: float | str) -> int:
        """Parameters, shared ones once, trained or not; fails above `max_params` (a number or `163M`)."""
        __tracebackhide__ = True
        limit = _limit(max_params, parse_count, "max_params")
        if isinstance(subject, str | ModelSpec):
            result = count(subject, Workload(seq_len=1))
            return self._check("params", subject, result.params.total, limit, format_count, result.params.parts)
        if not _is_module(subject):
            raise InputError(f"{_name(subject)} has no parameters", hint="give an nn.Module, a ModelSpec or its name")
        parts = {path: sum(p.numel() for p in child.parameters()) for path, child in subject.named_children()}
        total = sum(parameter.numel() for parameter in subject.parameters())
        return self._check("params", subject, total, limit, format_count, parts)

    def _check(
        self,
        name: str,
        subject: Any,
        value: int,
        limit: float,
        show: Callable[[float], str],
        parts: Mapping[str, int],
    ) -> int:
        """Keep the figure for the report, and compare it."""
        __tracebackhide__ = True
        if self._record is not None:
            self._record(f"flopwatch_{name}", value)
        if value > limit:
            more = f"{format_percent(value / limit - 1)} above the" if limit else "the"
            text = f"{name} of {_name(subject)}: {show(value)} ({value:,}), {more} budget of {show(limit)}"
            largest = sorted(parts.items(), key=lambda item: -item[1])[:_N_SHOWN]
            shown = ", ".join(f"{path or '(model)'} {show(n)}" for path, n in largest if n)
            raise AssertionError(f"{text}; largest parts: {shown}" if shown else text)
        return value


def _limit(limit: float | str, parse: Callable[[str], int], name: str) -> float:
    value = parse(limit) if isinstance(limit, str) else limit
    if not value >= 0:  # NaN too
        raise InputError(f"{name}={limit} is no budget", hint="give the most that is allowed, from 0 on")
    return value


def _name(subject: Any) -> str:
    """The subject as a failure names it."""
    if isinstance(subject, str | ModelSpec):
        return resolve_spec(subject).name
    return type(subject).__name__ if _is_module(subject) else getattr(subject, "__name__", type(subject).__name__)


def _is_module(subject: Any) -> bool:
    from torch import nn

    return isinstance(subject, nn.Module)


def _workload_of(
    subject: str | ModelSpec,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    phase: str | None,
    loss: object,
    workload: Workload | None,
) -> Workload:
    if workload is None or args or kwargs or phase is not None or loss is not None:
        raise InputError(
            f"{_name(subject)} is counted in closed form", hint="give workload=Workload(...), which says all the rest"
        )
    return workload


def _traced(
    subject: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    phase: str | None,
    loss: Callable[[Any], Any] | None,
    workload: Workload | None,
    *,
    n_steps: int = 1,
) -> Any:
    """The trace of a module's forward, or of `n_steps` calls of a step."""
    from flopwatch.trace.api import trace, trace_model

    if workload is not None:
        raise InputError(f"workload says nothing about {_name(subject)}", hint="give the args of its forward")
    if _is_module(subject):
        return trace_model(subject, args, kwargs, phase=phase or "forward", loss=loss)  # type: ignore[arg-type]
    if not callable(subject):
        raise InputError(
            f"{type(subject).__name__} has no cost", hint="give a step, an nn.Module, a ModelSpec or its name"
        )
    if args or kwargs or phase is not None or loss is not None:
        raise InputError("a step takes no arguments", hint="close over them: lambda: train(model, batch)")
    return trace(lambda: [subject() for _ in range(n_steps)])
