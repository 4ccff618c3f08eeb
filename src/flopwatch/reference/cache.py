"""The key-value cache of the reference network: one pair of tensors a layer, of fixed size."""

from __future__ import annotations

import torch
from torch import Tensor


class LayerCache:
    """Keys and values of one layer, room for `capacity` tokens: [B, G, capacity, E] and [B, G, capacity, F]."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys = keys
        self.values = values
        self.length = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values so far, the new ones [B, G, T, E], [B, G, T, F] written behind the old."""
        end = self.length + keys.shape[2]
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


def make_cache(
    n_layers: int, shape_k: tuple[int, ...], shape_v: tuple[int, ...], *, dtype: torch.dtype, device: torch.device
) -> list[LayerCache]:
    """An empty cache for `n_layers` layers, keys of `shape_k` [B, G, capacity, E], values of `shape_v`."""
    return [
        LayerCache(torch.zeros(shape_k, dtype=dtype, device=device), torch.zeros(shape_v, dtype=dtype, device=device))
        for _ in range(n_layers)
    ]
