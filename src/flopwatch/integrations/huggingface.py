"""MeterCallback: tokens/s, MFU and goodput in the logs of a Hugging Face `Trainer`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from flopwatch.api.meter import Meter
from flopwatch.errors import InputError, MissingError
from flopwatch.measure.meter_cost import unknown_cost
from flopwatch.model.huggingface import config_fields
from flopwatch.model.params import count_params
from flopwatch.model.spec import ModelSpec, spec_from_fields

try:
    import torch
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingError(
        f"the Hugging Face callback needs transformers ({error})", hint="pip install 'flopwatch[hf]'"
    ) from error

from flopwatch.integrations.module import (
    matmul_dtype,
    numel,
    recomputed,
    warn_of_frozen,
    warn_of_recomputed,
    work_of_shape,
)
from flopwatch.integrations.padding import WHY_PACKED, PaddingWatch, is_packed

Count = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""The keyword inputs of one forward pass -> what `Meter.add` is told of them."""

_DTYPES: Final = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16", "torch.float64": "fp64"}
_OF_A_MODEL: Final = ("recompute", "convention", "uses_flash")  # options of a Meter that say how a model is counted
_GIVE: Final = "give flops_per_token, such as fw.trace(step).total / tokens"


class MeterCallback(TrainerCallback):
    """A `TrainerCallback` that puts `perf/...` into the Trainer's training logs; `meter` is its `fw.Meter`.

    The model's FLOPs come from its config, if that tells all of its parameters and all of them are trained; the dtype,
    recomputation and devices from the Trainer's arguments. `options` are those of `fw.Meter` and win. Tokens are
    counted by the shapes of the inputs, padding included, which the first log with some of it warns of; `count` tells
    the lengths where they are known on the host.
    Evaluations, checkpoints and whatever else runs the model in `eval` mode are pauses. Over several ranks the figures
    are gathered when the Trainer logs.

    Given in `callbacks=`, its figures reach the Trainer's log history and the callbacks after it. Reporters such as
    TensorBoard come before those: `add_meter(trainer)` puts it first.
    """

    def __init__(self, *, count: Count | None = None, **options: Any) -> None:
        super().__init__()
        self.meter: Meter | None = None
        self._count = count
        self._options = options
        self._is_training = False
        self._hook: Any = None
        self._pause = contextlib.ExitStack()
        self._padding = PaddingWatch()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make the meter, and watch the model's forward passes."""
        model = kwargs["model"]
        self.on_train_end(args, state, control)  # a training that failed, or found no batch that fits, has not ended
        self.meter = _make_meter(model, args, self._options)
        watch = torch.compiler.disable(self._see)  # a compiled model must not trace what counts its inputs
        self._hook = model.register_forward_pre_hook(watch, with_kwargs=True)
        self._is_training = True
        self._padding = PaddingWatch()
        self.meter.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the meter's step."""
        if self.meter is not None:
            if not self.meter.has_work:
                raise InputError(
                    "a training step ended and the model's forward was not seen",
                    hint="the Trainer calls another module than its model: use fw.Meter in that loop",
                )
            self.meter.step()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Add the figures to a training log; all ranks come here together."""
        if self.meter is None or not self._is_training or logs is None or "loss" not in logs:
            return
        self._padding.tell(self.meter)  # the Trainer has just read the loss: the sum is there
        found = self.meter.gather()
        logs.update(found)
        if state.log_history and state.log_history[-1].get("step") == state.global_step:
            state.log_history[-1].update(found)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The time since the last step was an evaluation."""
        self._skip("eval")

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:
        """The time since the last step was a prediction, which is one too."""
        self._skip("eval")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The time since the last step, or the evaluation after it, was a checkpoint."""
        self._skip("save")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop watching."""
        self._is_training = False
        self._pause.close()
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _skip(self, name: str) -> None:
        self._pause.close()
        if self.meter is not None and self._is_training and not self.meter.has_work:
            self.meter.skip(name)

    def _see(self, model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Count the inputs of one forward pass by their shape, which the host knows."""
        if self.meter is None:
            return
        if not model.training:  # an evaluation in the middle of a step, or text that a callback lets the model write
            if self._is_training and not self.meter.is_paused:
                self._pause.enter_context(self.meter.pause("eval"))
            return
        self._pause.close()
        if self._count is not None:
            self.meter.add(**self._count(kwargs))
            return
        self._padding.see(kwargs.get("attention_mask"))
        n_sequences, length = _shape(model, args, kwargs)
        if is_packed(kwargs) and self.meter.cost.reason is None:
            self.meter.cost = unknown_cost(WHY_PACKED)
        self.meter.add(**work_of_shape(self.meter, n_sequences, length))


def add_meter(trainer: Any, *, count: Count | None = None, **options: Any) -> MeterCallback:
    """The MeterCallback now in `trainer`, before all its other callbacks, so that every reporter sees its figures."""
    callback = MeterCallback(count=count, **options)
    trainer.callback_handler.callbacks.insert(0, callback)
    return callback


def spec_of_model(model: Any) -> ModelSpec:
    """The spec that a transformers model's config describes; raises InputError when it is not the whole model.

    It has to have as many parameters as the model, so that other heads, adapters and quantised weights are not taken
    for what they are not, and a head, whose weights may be those of the input; and all of them have to be trained.
    """
    config = getattr(model, "config", None)  # any nn.Module can be trained
    if config is None or not hasattr(config, "to_json_string"):
        raise InputError(f"{type(model).__name__} has no config to count from", hint=_GIVE)
    name = type(model).__name__
    fields = config_fields(json.loads(config.to_json_string()), name)
    fields.pop("part", None)
    spec = spec_from_fields({"name": name, **fields})
    parameters = list(model.parameters())
    n_all = sum(numel(parameter) for parameter in parameters)
    if n_all != count_params(spec).total:
        expected = f"its config describes {count_params(spec).total:,}"
        raise InputError(f"{name} has {n_all:,} parameters and {expected}", hint=_GIVE)
    if hasattr(model, "get_output_embeddings") and model.get_output_embeddings() is None:
        raise InputError(f"{name} has no output head, and its config describes one", hint=_GIVE)
    n_frozen = sum(numel(parameter) for parameter in parameters if not parameter.requires_grad)
    if n_frozen:
        raise InputError(f"{n_frozen:,} of {n_all:,} parameters are not trained, which costs less", hint=_GIVE)
    return spec


def _make_meter(model: Any, args: Any, options: dict[str, Any]) -> Meter:
    known = {"n_devices": args.world_size * max(1, args.n_gpu)} | options
    if "dtype" not in options:
        known["dtype"] = _dtype(model, args)
    if "model" in options or "flops_per_token" in options:
        return _make_meter_as_told(model, args, known)
    try:
        spec = spec_of_model(model)
        known.setdefault("recompute", _recompute(model, args))
    except InputError as error:  # what cannot be counted is no reason to stop a training run: mfu is n/a, and says why
        meter = Meter(**{name: value for name, value in known.items() if name not in _OF_A_MODEL})
        meter.cost = unknown_cost(f"{error.message}; {_GIVE}")
        return meter
    return Meter(spec, **known)


def _make_meter_as_told(model: Any, args: Any, known: dict[str, Any]) -> Meter:
    """A meter of the model or the numbers that the user gave; what they leave out of the training is warned of."""
    recompute = known.get("recompute") or _layers_again(model, args)
    if recompute == "full" and "model" in known:
        known["recompute"] = recompute
    meter = Meter(**known)
    if "model" in known:
        warn_of_frozen(meter, model)
    if recompute != known.get("recompute", "none") and "hardware_flops_per_token" not in known:
        warn_of_recomputed(meter)
    return meter


def _recompute(model: Any, args: Any) -> str:
    """What the Trainer or the model computes again; raises InputError where it is only a part of the layers."""
    again = _layers_again(model, args)
    if again == "some":
        every = (args.gradient_checkpointing_kwargs or {}).get("every_n_layers")
        told = "" if every is None else f" (every_n_layers={every})"
        raise InputError(f"only some layers are computed again{told}", hint=_GIVE)
    return again


def _layers_again(model: Any, args: Any) -> str:
    """Layers that are computed again, `none`, `some` or `full`: the Trainer was told so, or the model before it."""
    if not args.gradient_checkpointing:
        return recomputed(model)
    return "full" if (args.gradient_checkpointing_kwargs or {}).get("every_n_layers", 1) == 1 else "some"


def _dtype(model: Any, args: Any) -> str:
    """The dtype that matmuls run in: of autocast, else of the weights (tf32 where it was asked for)."""
    if args.bf16 or args.fp16:
        return "bf16" if args.bf16 else "fp16"
    parameter = next(model.parameters())
    dtype = _DTYPES.get(str(parameter.dtype))
    if dtype is None:
        raise InputError("the dtype of the matmuls is not known", hint="give the callback dtype=")
    return "tf32" if dtype == "fp32" and args.tf32 else matmul_dtype(dtype, parameter.device.type)


def _shape(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int, int]:
    """Sequences and their length, padded as they are."""
    name = getattr(model, "main_input_name", "input_ids")
    for ids in (kwargs.get(name), kwargs.get("input_ids"), args[0] if args else None):
        if isinstance(ids, torch.Tensor) and ids.dim() == 2 and not ids.is_floating_point():
            return ids.shape[0], ids.shape[1]
    embeddings = kwargs.get("inputs_embeds")
    if isinstance(embeddings, torch.Tensor) and embeddings.dim() == 3:
        return embeddings.shape[0], embeddings.shape[1]
    raise InputError(
        f"the forward pass has no {name} of whole numbers [sequences, length] to count tokens by",
        hint="give the callback count=, a function of the inputs",
    )
