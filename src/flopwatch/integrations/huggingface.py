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
from flopwatch.units import format_percent

try:
    import torch
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingError(
        f"the Hugging Face callback needs transformers ({error})", hint="pip install 'flopwatch[hf]'"
    ) from error

from flopwatch.integrations.module import matmul_dtype, numel, tell, warn_of_frozen

Count = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""The keyword inputs of one forward pass -> what `Meter.add` is told of them."""

_PACKED: Final = ("cu_seq_lens_q", "cu_seqlens", "seq_idx")  # what collators that pack without padding pass on
_MASK_OF_PADDING: Final = 2  # dimensions of a mask that only tells padding
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
        self._n_padding: Any = None  # of `_n_masked` positions; on the device, None where it is not looked for
        self._n_masked = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make the meter, and watch the model's forward passes."""
        model = kwargs["model"]
        self.meter = _make_meter(model, args, self._options)
        watch = torch.compiler.disable(self._see)  # a compiled model must not trace what counts its inputs
        self._hook = model.register_forward_pre_hook(watch, with_kwargs=True)
        self._is_training = True
        self._n_padding = 0 if self._count is None else None
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
        self._tell_padding(self.meter)
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
        self._note_padding(kwargs.get("attention_mask"))
        n_sequences, length = _shape(model, args, kwargs)
        if _is_packed(kwargs) and self.meter.cost.reason is None:
            self.meter.cost = unknown_cost("sequences are packed, and their lengths are on the device: give count=")
        if self.meter.cost.model is None:
            self.meter.add(tokens=n_sequences * length)
        else:
            self.meter.add(tokens=n_sequences * length, sequences=n_sequences)

    def _note_padding(self, mask: Any) -> None:
        """Add up the padding that a mask tells of, on its device: nobody waits for the sum before the next log."""
        if self._n_padding is None or not isinstance(mask, torch.Tensor) or mask.dim() != _MASK_OF_PADDING:
            return
        self._n_padding = self._n_padding + (mask == 0).sum()
        self._n_masked += mask.numel()

    def _tell_padding(self, meter: Meter) -> None:
        """Warn once of padding that counts as tokens. The Trainer has just read the loss: the sum is there."""
        if self._n_padding is None or not int(self._n_padding):
            return
        text = (
            f"{format_percent(int(self._n_padding) / self._n_masked)} of the positions are padding, and count as tokens"
            " and as FLOPs: tokens/s and MFU are higher than those of the text; give count=, the lengths"
        )
        self._n_padding = None
        tell(meter, text, stacklevel=4)


def add_meter(trainer: Any, *, count: Count | None = None, **options: Any) -> MeterCallback:
    """The MeterCallback now in `trainer`, before all its other callbacks, so that every reporter sees its figures."""
    callback = MeterCallback(count=count, **options)
    trainer.callback_handler.callbacks.insert(0, callback)
    return callback


def spec_of_model(model: Any) -> ModelSpec:
    """The spec that a transformers model's config describes; raises InputError when it is not the whole model.

    It has to have as many parameters as the model, so that other heads, adapters and quantised weights are not taken
    for what they are not, and all of them have to be trained.
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
    n_frozen = sum(numel(parameter) for parameter in parameters if not parameter.requires_grad)
    if n_frozen:
        raise InputError(f"{n_frozen:,} of {n_all:,} parameters are not trained, which costs less", hint=_GIVE)
    return spec


def _make_meter(model: Any, args: Any, options: dict[str, Any]) -> Meter:
    known = {"dtype": _dtype(model, args), "n_devices": args.world_size * max(1, args.n_gpu)} | options
    if "model" in options or "flops_per_token" in options:
        meter = Meter(**known)
        if "model" in options:
            warn_of_frozen(meter, model)
        return meter
    try:
        spec = spec_of_model(model)
        known.setdefault("recompute", _recompute(args))
    except InputError as error:  # what cannot be counted is no reason to stop a training run: mfu is n/a, and says why
        meter = Meter(**{name: value for name, value in known.items() if name not in _OF_A_MODEL})
        meter.cost = unknown_cost(str(error))
        return meter
    return Meter(spec, **known)


def _recompute(args: Any) -> str:
    """What the Trainer computes again; raises InputError where it is only a part of the layers."""
    if not args.gradient_checkpointing:
        return "none"
    every = (args.gradient_checkpointing_kwargs or {}).get("every_n_layers", 1)
    if every != 1:
        raise InputError(f"only some layers are computed again (every_n_layers={every})", hint=_GIVE)
    return "full"


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
    inputs = kwargs.get(name, kwargs.get("inputs_embeds", args[0] if args else None))
    if not isinstance(inputs, torch.Tensor) or inputs.dim() < 2:
        raise InputError(
            f"the forward pass has no {name} of [sequences, length] to count tokens by",
            hint="give the callback count=, a function of the inputs",
        )
    return inputs.shape[0], inputs.shape[1]


def _is_packed(kwargs: Mapping[str, Any]) -> bool:
    """Whether a row may hold several sequences that do not see each other.

    transformers takes positions that begin anew for packed rows where there is no mask; a mask of more than
    [sequences, length] says for each token which others it sees.
    """
    if any(kwargs.get(name) is not None for name in _PACKED):
        return True
    mask = kwargs.get("attention_mask")
    if mask is None:
        return kwargs.get("position_ids") is not None
    return isinstance(mask, Mapping) or (isinstance(mask, torch.Tensor) and mask.dim() > _MASK_OF_PADDING)
