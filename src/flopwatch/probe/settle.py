"""Waiting for a device: the one place where a probe synchronises."""

from __future__ import annotations

from collections.abc import Callable

import torch


def settle_of(device: str) -> Callable[[], None]:
    """A function that returns when all work given to `device` is done."""
    if device.split(":")[0] == "cpu":
        return lambda: None  # an operator on a CPU has ended when it returns
    settle: Callable[[], None] = torch.get_device_module(device).synchronize
    return settle
