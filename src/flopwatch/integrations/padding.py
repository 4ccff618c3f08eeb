"""What masks and positions tell of a batch that is counted by its shape: its padding, and rows that are packed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch

from flopwatch.api.meter import Meter
from flopwatch.integrations.module import tell
from flopwatch.units import format_percent

WHY_PACKED: Final = "sequences are packed, and their lengths are on the device: give count="
_PACKED: Final = ("cu_seq_lens_q", "cu_seqlens", "seq_idx")  # what collators that pack without padding pass on
_MASK_OF_PADDING: Final = 2  # dimensions of a mask that only tells padding


class PaddingWatch:
    """The padding of all batches seen, added up on their device, so that nobody waits for it before a log."""

    def __init__(self) -> None:
        self._n_padding: Any = 0
        self._n_masked = 0
        self._is_told = False

    def see(self, mask: Any) -> None:
        """Add the padding that a mask of [sequences, length] tells of."""
        if self._is_told or not isinstance(mask, torch.Tensor) or mask.dim() != _MASK_OF_PADDING:
            return
        self._n_padding = self._n_padding + (mask == 0).sum()
        self._n_masked += mask.numel()

    def tell(self, meter: Meter) -> None:
        """Warn once of padding that counts as tokens; reads the sum from the device, so only where a loss is read."""
        if self._is_told or not int(self._n_padding):
            return
        self._is_told = True
        text = (
            f"{format_percent(int(self._n_padding) / self._n_masked)} of the positions are padding, and count as tokens"
            " and as FLOPs: tokens/s and MFU are higher than those of the text; give count=, the lengths"
        )
        tell(meter, text, stacklevel=4)


def is_packed(inputs: Mapping[str, Any]) -> bool:
    """Whether a row may hold several sequences that do not see each other.

    transformers takes positions that begin anew for packed rows where there is no mask; a mask of more than
    [sequences, length] says for each token which others it sees.
    """
    if any(inputs.get(name) is not None for name in _PACKED):
        return True
    mask = inputs.get("attention_mask")
    if mask is None:
        return inputs.get("position_ids") is not None
    return isinstance(mask, Mapping) or (isinstance(mask, torch.Tensor) and mask.dim() > _MASK_OF_PADDING)
