"""MeterCallback: tokens/s, MFU and goodput in the loggers of a Lightning `Trainer`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from flopwatch.api.meter import Meter
from flopwatch.errors import InputError, MissingError
from flopwatch.model.spec import ModelSpec

try:
    import torch
    from lightning.pytorch.callbacks import Callback
except ImportError as error:
    raise MissingError(
        f"the Lightning callback needs lightning ({error})", hint="pip install 'flopwatch[lightning]'"
    ) from error

from flopwatch.integrations.module import (
    matmul_dtype,
    recomputed,
    tell,
    warn_of_frozen,
    warn_of_recomputed,
    work_of_shape,
)
from flopwatch.integrations.padding import WHY_PACKED, PaddingWatch, is_packed
from flopwatch.measure.meter_cost import unknown_cost

Count = Callable[[Any], Mapping[str, Any]]
"""A batch -> what `Meter.add` is told of it."""

_DTYPES: Final = {"64": "fp64", "32": "fp32", "bf16": "bf16", "16": "fp16", "transformer": "fp8"}


class MeterCallback(Callback):
    """A Lightning callback that gives `perf/...` to the Trainer's loggers; `meter` is its `fw.Meter`.

    `model` and `options` are those of `fw.Meter`; the dtype follows the Trainer's precision unless given. Tokens are
    counted by the shape [sequences, length] of the batch's `input_ids`, or its first tensor of whole numbers; `count`
    tells what a batch of another form holds. Validation and checkpoints are pauses; a checkpoint lasts until the next
    batch begins. Figures are logged every `log_every_n_steps`, gathered over all ranks.
    """

    def __init__(self, model: str | ModelSpec | None = None, *, count: Count | None = None, **options: Any) -> None:
        super().__init__()
        self.meter: Meter | None = None
        self._model = model
        self._count = count
        self._options = options
        self._pause = contextlib.ExitStack()
        self._n_steps_seen = 0
        self._is_training = False
        self._is_in_batch = False
        self._has_told_save = False
        self._padding = PaddingWatch()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the meter; its first step begins now."""
        known = {"n_devices": trainer.world_size} | self._options
        if "dtype" not in known:
            known["dtype"] = matmul_dtype(_dtype(trainer), pl_module.device.type)
        self.meter = Meter(self._model, **known)
        if self._model is not None:
            warn_of_frozen(self.meter, pl_module)
        is_told = self.meter.cost.reason is not None or {"recompute", "hardware_flops_per_token"} & known.keys()
        if not is_told and recomputed(pl_module) != "none":
            warn_of_recomputed(self.meter)
        self._padding = PaddingWatch()
        self._n_steps_seen = trainer.global_step
        self._is_training = True
        self._is_in_batch = self._has_told_save = False
        self.meter.start()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """A checkpoint, if there was one, is over."""
        self._pause.close()
        self._is_in_batch = True

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the batch, and end the meter's step when the weights were updated."""
        if self.meter is None:
            return
        self._is_in_batch = False
        self.meter.add(**(self._by_shape(batch, self.meter) if self._count is None else self._count(batch)))
        if trainer.global_step == self._n_steps_seen:  # more micro-batches to come
            return
        self._n_steps_seen = trainer.global_step
        self.meter.step()
        if trainer.log_every_n_steps and self.meter.n_steps % trainer.log_every_n_steps == 0:
            self._padding.tell(self.meter)
            found = self.meter.gather()
            for logger in trainer.loggers if found else ():
                logger.log_metrics(found, step=trainer.global_step - 1)  # as Lightning numbers its own rows

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Validation is a pause, but for the check before training."""
        self._pause.close()
        self._begin_pause("eval")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Training goes on."""
        self._pause.close()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """A checkpoint begins; Lightning does not tell when it is written."""
        if not self._is_in_batch:
            self._begin_pause("save")
        elif self._is_training and self.meter is not None and not self._has_told_save:
            self._has_told_save = True
            text = (
                "a checkpoint was written within a batch: its time counts as training; put MeterCallback before the"
                " callback that writes it, or save between batches"
            )
            tell(self.meter, text)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close what is open."""
        self._is_training = False
        self._pause.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close what is open."""
        self._is_training = False
        self._pause.close()

    def _begin_pause(self, name: str) -> None:
        if self.meter is not None and self._is_training and not self.meter.is_paused:
            self._pause.enter_context(self.meter.pause(name))

    def _by_shape(self, batch: Any, meter: Meter) -> dict[str, Any]:
        if isinstance(batch, Mapping):
            self._padding.see(batch.get("attention_mask"))
            if is_packed(batch) and meter.cost.reason is None:
                meter.cost = unknown_cost(WHY_PACKED)
        return _by_shape(batch, meter)


def _dtype(trainer: Any) -> str:
    """The dtype of the Trainer's precision: `bf16-mixed` and `bf16-true` are bf16."""
    precision = str(trainer.precision)
    dtype = _DTYPES.get(precision.partition("-")[0])
    if dtype is None:
        raise InputError(f"precision {precision!r} has no known dtype", hint="give the callback dtype=")
    return dtype


def _by_shape(batch: Any, meter: Meter) -> dict[str, Any]:
    """Tokens and sequences of a batch by its shape, which the host knows."""
    if isinstance(batch, Mapping):
        candidates = [batch["input_ids"]] if "input_ids" in batch else list(batch.values())
    else:
        candidates = list(batch) if isinstance(batch, list | tuple) else [batch]
    for tensor in candidates:
        if isinstance(tensor, torch.Tensor) and tensor.dim() == 2 and not tensor.is_floating_point():
            return work_of_shape(meter, *tensor.shape)
    raise InputError(
        f"a batch of type {type(batch).__name__} has no token ids of [sequences, length]",
        hint="give the callback count=, a function of the batch",
    )
