"""FakeDevice: a device with a budget, on which running out of memory is the same every time and leaks can be seen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from flopwatch.errors import InputError
from flopwatch.fields import is_whole

if TYPE_CHECKING:
    from flopwatch.probe.tensor_budget import TensorBudget


class FakeDevice:
    """Tensors made inside its `with` count against `budget_bytes`; one too many raises torch.OutOfMemoryError.

    Needs no GPU: the tensors are ordinary ones on the CPU or on `meta`. Only live tensors count, to the byte: there is
    no cache, no rounding, and no temporary inside a kernel. What outlives the `with` stays counted until it dies, so
    that a leak shows in `allocated_bytes`. `fw.fit(step=..., device=fake)` searches on it.
    """

    def __init__(self, budget_bytes: int) -> None:
        if not is_whole(budget_bytes, least=1):
            text = f"a budget of {budget_bytes!r} bytes leaves nothing, or is no whole number"
            raise InputError(text, hint="write it like 2 << 30")
        self.budget_bytes = budget_bytes
        self._counted: TensorBudget | None = None

    def __enter__(self) -> Self:
        self._budget.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._budget.__exit__(kind, error, tb)  # type: ignore[no-untyped-call]

    @property
    def allocated_bytes(self) -> int:
        """Bytes of the tensors that are alive now."""
        return self._budget.allocated_bytes

    @property
    def peak_bytes(self) -> int:
        """The most that was alive at once since the start or the last `reset_peak`."""
        return self._budget.peak_bytes

    @property
    def available_bytes(self) -> int:
        """The whole budget: what a search takes for its limit when none is given."""
        return self.budget_bytes

    @property
    def n_out_of_memory(self) -> int:
        """How often something was refused."""
        return self._budget.n_out_of_memory

    def reset_peak(self) -> None:
        """Let the peak count from what is alive now."""
        self._budget.reset_peak()

    def empty_cache(self) -> None:
        """There is no cache: what is dead is free at once."""

    @contextlib.contextmanager
    def limited(self, limit_bytes: int | None) -> Iterator[None]:
        """Inside, the budget is `limit_bytes` where that is less, and what is made counts."""
        before = self._budget.budget_bytes
        if limit_bytes is not None:
            self._budget.budget_bytes = min(limit_bytes, self.budget_bytes)
        try:
            with self._budget:
                yield
        finally:
            self._budget.budget_bytes = before

    @property
    def _budget(self) -> TensorBudget:
        """The counter, made when it is first needed: importing this loads no torch."""
        if self._counted is None:
            from flopwatch.probe.tensor_budget import TensorBudget

            self._counted = TensorBudget(self.budget_bytes)
        return self._counted
