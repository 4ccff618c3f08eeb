"""A card of the catalogue as the target of a choice."""

from __future__ import annotations

from flopwatch.compare.whatif.coefficients import DTYPES
from flopwatch.compare.whatif.evaluate import Target
from flopwatch.device.device import Device
from flopwatch.measure.limit import card_limit


def target_of(card: Device) -> Target:
    """The card's dense peaks and bandwidth, and its memory less what `flopwatch fit` keeps back for its context."""
    peaks = {dtype: card.peak(dtype) for dtype in DTYPES}
    return Target(
        device_type="cpu" if card.unit == "CPU" else "cuda",
        flops_per_s={
            dtype: peak.dense_flops_per_s
            for dtype, peak in peaks.items()
            if peak is not None and peak.dense_flops_per_s is not None
        },
        bandwidth_bytes_per_s=card.bandwidth_bytes_per_s,
        cache_bytes=int((card.l2_mib or 0) * 2**20),
        limit_bytes=None if card.memory_bytes is None else card_limit(card).limit_bytes,
    )
