"""A trace leaves no trace: what a step may change of a model is put back, whether the step ended or failed."""

from __future__ import annotations

import torch
from torch import nn


class Guard:
    """Keeps training flags and gradients of the modules that a step uses, and puts them back.

    While the step runs, a gradient that was there is a copy, so that adding to it leaves the user's own alone.
    Weights and buffers are not kept: a step on tensors with data changes them as it would without a trace.
    """

    def __init__(self) -> None:
        self._training: dict[nn.Module, bool] = {}
        self._gradients: dict[int, tuple[torch.Tensor, torch.Tensor | None]] = {}

    def keep(self, module: nn.Module) -> None:
        """Remember a module and all below it, before the step touches it."""
        for part in module.modules():
            if part in self._training:
                continue
            if hasattr(part, "training"):  # a frozen script module has none
                self._training[part] = part.training
            for parameter in part._parameters.values():
                if parameter is not None and id(parameter) not in self._gradients:
                    self._keep_gradient(parameter)

    def _keep_gradient(self, parameter: nn.Parameter) -> None:
        gradient = parameter.grad
        self._gradients[id(parameter)] = (parameter, gradient)
        if gradient is not None:
            parameter.grad = gradient.detach().clone()

    def put_back(self) -> None:
        """Everything as it was when it was kept."""
        for part, is_training in self._training.items():
            part.training = is_training
        for parameter, gradient in self._gradients.values():
            parameter.grad = gradient
