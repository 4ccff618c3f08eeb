"""One step of a model that the user's code makes: what is traced, probed and timed."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map

from flopwatch.errors import InputError
from flopwatch.model.own import OwnModel
from flopwatch.reference.model import DTYPES
from flopwatch.reference.source import Source, load_factory
from flopwatch.reference.step import autocast_of, make_optimizer
from flopwatch.workload import Workload

LossKind = Literal["own", "cross-entropy", "sum"]

_NAMES: Final = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def build_own_step(own: OwnModel, workload: Workload, *, device: str = "cpu", compiled: bool = False) -> OwnStep:
    """A callable that runs one step of `workload` on the model that the user's code makes, on `device`.

    With `compiled` the module goes through torch.compile at its first call. Runs the user's code.
    """
    source = placed(load_factory(own.factory, workload, own.changes), workload, device=device)
    if compiled:
        source.module.compile()
    return OwnStep(source, workload)


def made_dtype(source: Source) -> str:
    """The dtype that most of the weights have as they were made; of the inputs where there are none.

    Raises InputError for one that no step here runs in.
    """
    amounts: Counter[torch.dtype] = Counter()
    for tensor in source.module.parameters():
        if tensor.is_floating_point():
            amounts[tensor.dtype] += tensor.numel()
    if not amounts:
        amounts.update(tensor.dtype for tensor in _floats((source.args, dict(source.kwargs))))
    most = amounts.most_common(1)[0][0] if amounts else torch.float32
    if most not in _NAMES:
        raise InputError(f"{source.name} has weights in {most}", hint=f"a step runs in {', '.join(_NAMES.values())}")
    return _NAMES[most]


def placed(source: Source, workload: Workload, *, device: str | None = None) -> Source:
    """The same module and inputs on `device`, in the workload's dtype.

    A module that has that dtype already stays as it was made, the parts that have another too; so does one that runs
    under autocast. `device` None: where they are.
    """
    module, inputs = source.module, (tuple(source.args), dict(source.kwargs))
    if device is not None:
        module.to(device)
        inputs = tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, inputs)
    if workload.precision == "pure" and workload.dtype != made_dtype(source):
        dtype = DTYPES[workload.dtype]
        module.to(dtype)
        inputs = tree_map(lambda leaf: leaf.to(dtype) if _is_float(leaf) else leaf, inputs)
    return dataclasses.replace(source, args=inputs[0], kwargs=inputs[1])


class OwnStep:
    """One step of `workload` on a module of the user's: forward without gradients, or training.

    Training starts backward from the output's own `.loss`; else from the cross-entropy of logits [batch, seq, V] to
    token ids [batch, seq]; else, or when the workload says so, from the sum of what the module gives. `loss_kind` says
    which, once a step has run. Module, optimizer and inputs are made before, outside of what is timed.
    """

    def __init__(self, source: Source, workload: Workload) -> None:
        self.loss_kind: LossKind | None = None
        self._source = source
        self._workload = workload
        self._ids = next((leaf for leaf in _tensors((source.args, dict(source.kwargs))) if _is_ids(leaf)), None)
        self._targets: Tensor | None = None
        self._optimizer = make_optimizer(source.module, workload) if workload.is_train else None

    def __call__(self) -> None:
        """Run it once."""
        if not self._workload.is_train:
            with torch.no_grad(), self._autocast():
                self._forward()
            return
        for _ in range(self._workload.n_accumulate):
            with self._autocast():
                loss = self._loss(self._forward())
            (loss / self._workload.n_accumulate if self._workload.n_accumulate > 1 else loss).backward()
            del loss
        if self._optimizer is not None:
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        else:
            self._source.module.zero_grad(set_to_none=True)

    def _forward(self) -> Any:
        return self._source.module(*self._source.args, **self._source.kwargs)

    def _loss(self, output: Any) -> Tensor:
        own = getattr(output, "loss", None)  # the output of a transformers model that was given labels
        if self._workload.loss == "cross-entropy":
            if isinstance(own, Tensor) and own.requires_grad:
                self.loss_kind = "own"
                return own
            logits = _logits_of(output)
            if logits is not None and self._ids is not None and logits.shape[:-1] == self._ids.shape:
                self.loss_kind = "cross-entropy"
                return F.cross_entropy(logits.flatten(0, 1), self._targets_for(logits).flatten())
        self.loss_kind = "sum"
        return _sum_of(output, self._source.name)

    def _targets_for(self, logits: Tensor) -> Tensor:
        """Random targets, made with the first step."""
        if self._targets is None:
            self._targets = torch.randint(logits.shape[-1], logits.shape[:-1], device=logits.device)
        return self._targets

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        return autocast_of(self._source.module, self._workload)


def _logits_of(output: Any) -> Tensor | None:
    """The output's logits [batch, seq, V] with a gradient: itself, its `.logits`, or its first part; else None."""
    found = getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        found = output[0] if isinstance(output, (tuple, list)) and output else output
    is_logits = isinstance(found, Tensor) and found.dim() == 3 and found.is_floating_point() and found.requires_grad
    return found if is_logits else None


def _sum_of(output: Any, name: str) -> Tensor:
    found = [tensor for tensor in _tensors(output) if tensor.requires_grad]
    if not found:
        raise InputError(
            f"nothing in the output of {name} needs a gradient, so there is nothing to train",
            hint="use --phase forward, or train at least one parameter",
        )
    total: Tensor = sum((tensor.sum() for tensor in found[1:]), start=found[0].sum())
    return total


def _tensors(values: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def _floats(values: Any) -> Iterator[Tensor]:
    return (tensor for tensor in _tensors(values) if tensor.is_floating_point())


def _is_float(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _is_ids(tensor: Tensor) -> bool:
    return tensor.dim() == 2 and not tensor.is_floating_point()
