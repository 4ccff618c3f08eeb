"""The recorder: one dispatch mode that writes down every operator of a step, its cost, its module and its phase.

Below it lie the function mode that sees attention (`functions.py`), the hooks that know which module runs
(`modules.py`), and what follows from both (`attribution.py`).
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

from flopwatch.trace.attention import Implementation
from flopwatch.trace.attribution import Attribution
from flopwatch.trace.cost import Kind, OpCost, Operator, has_data, is_nested, tensors_in
from flopwatch.trace.eager import without_compilation
from flopwatch.trace.formulas import Call, Formula
from flopwatch.trace.functions import FunctionMode
from flopwatch.trace.higher_order import run_higher_order
from flopwatch.trace.memo import Home, Remembered, call_key, remember
from flopwatch.trace.modules import ModuleNames, ModuleStack, Place
from flopwatch.trace.sharded import ShardedWork
from flopwatch.trace.stand_ins import STAND_INS
from flopwatch.trace.storages import StorageLog, has_storage, is_transformed
from flopwatch.trace.threads import threads_noted
from flopwatch.trace.without_data import is_plain_fake, no_functions, view_of_fake

Row = tuple[OpCost, Place, str]
"""One operator that ran: its cost, where it belongs, in which phase."""
_OURS: Final = object()


class Recorder(TorchDispatchMode):
    """Writes down every operator that runs while it is entered. One recorder records one trace."""

    supports_higher_order_operators = True

    def __init__(
        self,
        names: ModuleNames,
        formulas: Mapping[Any, Formula],
        *,
        attention: Implementation,
        on_root: Callable[[nn.Module], None],
        memory_events: bool,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = names
        self.rows: list[Row] = []
        self.storages: StorageLog | None = StorageLog() if memory_events else None
        self.notes: set[str] = set()
        self.sharded = ShardedWork()
        self._on_new_root = on_root
        self._stack = ModuleStack(names, self._root_called, self._unseen_called)
        self.attribution = Attribution(names, self._stack)
        self._where = self.attribution.where
        self._note_view = self.attribution.note_view
        self._functions = FunctionMode(self, self._stack, attention)
        self._formulas = formulas
        self._operators: dict[int, Operator] = {}  # by id: an Operator keeps its function, whose own hash is slow
        self._memo: dict[tuple[Any, ...], Remembered] = {}
        self._roots: dict[nn.Module, None] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No wrapper of the compiler around each operator: it would load the compiler, and costs more than the memo.

        Nothing compiles while this records (see `eager.py`).
        """
        return False

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Everything that a trace needs in place, and gone afterwards, whatever happens in between."""
        with contextlib.ExitStack() as cleanup:
            cleanup.enter_context(without_compilation())
            cleanup.enter_context(_no_collection())
            cleanup.enter_context(threads_noted(self.notes))
            cleanup.callback(self._finish)
            cleanup.callback(self._stack.remove)
            self._stack.install()
            cleanup.callback(register_optimizer_step_pre_hook(self._optimizer_begins).remove)
            cleanup.callback(register_optimizer_step_post_hook(self._optimizer_ends).remove)
            cleanup.enter_context(self._functions)
            cleanup.enter_context(self)
            yield

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operator, or repeat what it gave before, and write it down."""
        operator = self._operators.get(id(func))
        if operator is None:
            operator = self._operator(func)
        if types:
            answer = self._of_subclass(operator, types, args, kwargs or {})
            if answer is not _OURS:
                return answer
        kind = operator.kind
        if kind is Kind.VIEW:
            self._note_view()
            is_fake = bool(types) and is_plain_fake(args[0])
            if not operator.is_native or (types and not is_fake):  # a subclass's own code may run inside
                return func(*args, **kwargs) if kwargs else func(*args)
            with no_functions():
                if is_fake:
                    return view_of_fake(operator.call, args, kwargs)
                return operator.call(*args, **kwargs) if kwargs else operator.call(*args)
        kwargs = kwargs or {}
        if kind is not Kind.FUNCTIONAL and kind is not Kind.IN_PLACE:
            return self._run_other(operator, args, kwargs)
        with no_functions():
            key = call_key(operator, args, kwargs)
            try:
                known = None if key is None else self._memo.get(key)
            except TypeError:  # an argument without a hash
                key = known = None
            if known is not None and known.is_repeatable:
                return self._repeat(kind, known, args)
        if known is not None:
            return self._run_again(operator, known, args, kwargs)
        return self._run(operator, key, args, kwargs)

    def _of_subclass(self, operator: Operator, types: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What comes of an operator on tensors of a subclass: its result, NotImplemented, or that it is ours to run."""
        if operator.kind is Kind.QUERY:
            return NotImplemented
        if self.sharded.was_seen and FakeTensor in types:
            return operator.func(*args, **kwargs)  # how a DTensor finds out what its result will look like
        if isinstance(operator.func, torch._ops.HigherOrderOperator) or not _is_wrapped(args):
            return _OURS
        if not operator.is_composite:
            self.sharded.note(operator, args, kwargs, self._where()[1])
        return NotImplemented

    def _operator(self, func: Any) -> Operator:
        if id(func) not in self._operators:
            self._operators[id(func)] = Operator(func, self._formulas)
        return self._operators[id(func)]

    def _repeat(self, kind: Kind, known: Remembered, args: Sequence[Any]) -> Any:
        """Write down a call on tensors without data that was seen before; its result is made, not computed."""
        self._note_inputs(args)
        place, phase = self._where()
        self.rows.append((known.cost, place, phase))
        if kind is Kind.IN_PLACE:
            return args[0]
        if known.single is not None:
            result = known.single.make()
            storages = self.storages
            if storages is not None:
                storages.n_ops = len(self.rows)
                storages.add_new(result, known.single.n_bytes)
            return result
        assert known.several is not None
        results = tuple(None if spec is None else spec.make() for spec in known.several)
        self._note_results(results)
        return results

    def _run_again(self, operator: Operator, known: Remembered, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Write down a call that was seen before, and run it: there is data to compute with."""
        with no_functions():
            self._note_inputs(args)
        place, phase = self._where()
        self.rows.append((known.cost, place, phase))
        result = operator.func(*args, **kwargs)
        if operator.kind is Kind.FUNCTIONAL:
            with no_functions():
                self._note_results(result)
        return result

    def _run(self, operator: Operator, key: tuple[Any, ...] | None, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run a call that was not seen before, and remember it."""
        with no_functions():
            self._note_inputs(args)
        result = self._call(operator, args, kwargs, is_plain=key is not None)
        if result is NotImplemented:
            return result
        with no_functions():
            cost = self._write(operator, args, kwargs, result)
            if key is not None:
                gc.collect(0)  # torch's first run of an operator may leave cycles that hold the frames above it
                self._memo[key] = self._remembered(operator, cost, key[-1], args, result)
            self._note_results(result)
        return result

    def _remembered(self, operator: Operator, cost: OpCost, home: Home, args: Sequence[Any], result: Any) -> Remembered:
        if home is False:
            return Remembered(cost, is_repeatable=False)
        if operator.kind is Kind.IN_PLACE:
            return Remembered(cost, is_repeatable=args[0].is_meta if home is True else is_plain_fake(args[0]))
        return remember(cost, args, result, home)

    def _call(self, operator: Operator, args: Sequence[Any], kwargs: dict[str, Any], *, is_plain: bool) -> Any:
        stand_in = STAND_INS.get(operator.name)
        if stand_in is not None and not has_data(args[0]):
            return stand_in(args, kwargs)
        if not (is_plain and operator.is_native):
            return operator.func(*args, **kwargs)
        with no_functions():
            return operator.call(*args, **kwargs)

    def _run_other(self, operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run a composite, higher-order, mutating or value-dependent operator; nothing of it is remembered."""
        func = operator.func
        if isinstance(func, torch._ops.HigherOrderOperator):
            return run_higher_order(self, func, args, kwargs)
        if operator.kind is Kind.QUERY:
            return func(*args, **kwargs)
        if operator.kind is Kind.COMPOSITE and not any(is_nested(tensor) for tensor in tensors_in(args)):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        self._note_inputs(args)
        result = func(*args, **kwargs)
        if result is not NotImplemented:
            self._write(operator, args, kwargs, result)
            self._note_results(result)
        return result

    def record_call(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        """Write down a call that something else ran."""
        self._write(self._operator(func), args, kwargs, result)
        self._note_results(result)

    def record_uncounted(self, op: str, *, looks_like_matmul: bool) -> None:
        """Write down work that cannot be known."""
        place, phase = self._where()
        self.rows.append((OpCost(op=op, is_uncounted=True, looks_like_matmul=looks_like_matmul), place, phase))

    def take_since(self, mark: int) -> list[Row]:
        """The rows from index `mark` on, taken out."""
        taken = self.rows[mark:]
        del self.rows[mark:]
        return taken

    def _write(self, operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> OpCost:
        cost = operator.cost(Call(args, kwargs, result))
        if cost.flops and cost.dtype is not None and cost.dtype.startswith("complex"):
            self.notes.add("complex matmuls: a multiply-add of complex numbers is four of real ones, 8 FLOPs")
        place, phase = self._where()
        self.rows.append((cost, place, phase))
        return cost

    def _note_inputs(self, args: Sequence[Any]) -> None:
        """Note what was there before the trace, at its first use, be it in a call that others made before."""
        if self.storages is not None:
            for arg in args:
                if isinstance(arg, torch.Tensor):
                    if has_storage(arg):
                        self.storages.add(arg, -1, "input")
                elif arg.__class__ is list or arg.__class__ is tuple:
                    self._note_inputs(arg)

    def _note_results(self, result: Any) -> None:
        if self.storages is not None:
            self.storages.n_ops = n_ops = len(self.rows)
            for tensor in tensors_in((result,)):
                if has_storage(tensor):
                    self.storages.add(tensor, n_ops - 1)

    def _root_called(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.attribution.forward_begins()
        self.add_root(module)
        self._note_inputs([arg for arg in args if not (isinstance(arg, torch.Tensor) and is_transformed(arg))])

    def _unseen_called(self, what: str) -> None:
        """Something runs where no mode sees its operators: in a thread of the step's own, within a fused graph."""
        self.record_uncounted(what, looks_like_matmul=True)

    def add_root(self, module: nn.Module) -> None:
        """Know a module's tensors before the step uses them."""
        if module in self._roots:
            return
        self._roots[module] = None
        self._on_new_root(module)
        if self.storages is None:
            return
        for part in module.modules():
            for parameter in part._parameters.values():
                if parameter is not None:
                    self.storages.mark(parameter, "parameter")
                    self.storages.mark(parameter.grad, "gradient")
            for buffer in part._buffers.values():
                self.storages.mark(buffer, "buffer")

    def _optimizer_begins(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.attribution.n_optimizers += 1
        self._mark_optimizer(optimizer)

    def _optimizer_ends(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.attribution.n_optimizers -= 1
        self._mark_optimizer(optimizer)

    def _mark_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Gradients and state say what they are before and after each optimizer step."""
        if self.storages is None:
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                self.storages.mark(parameter, "parameter")
                self.storages.mark(parameter.grad, "gradient")
        for state in optimizer.state.values():
            for value in state.values():
                self.storages.mark(value if isinstance(value, torch.Tensor) else None, "optimizer")

    def ops_at(self, place: Place) -> list[str]:
        """The names of the last operators in a row that belong to a place, newest first."""
        names: list[str] = []
        for cost, where, _ in reversed(self.rows):
            if where is not place:
                break
            names.append(cost.op)
        return names

    def _finish(self) -> None:
        """Say what the gradients left at the end are, and end the memory log."""
        self.notes |= self.sharded.notes()
        if self.storages is not None:
            for root in self._roots:
                for parameter in root.parameters():
                    self.storages.mark(parameter.grad, "gradient")
            self.storages.close()


def _is_wrapped(args: Sequence[Any]) -> bool:
    """Whether a tensor that wraps others is among the arguments: its own operators then come here one by one."""
    return any(is_traceable_wrapper_subclass(tensor) for tensor in tensors_in(args))


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection of cycles meanwhile: it would free memory at moments that no second trace repeats."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
