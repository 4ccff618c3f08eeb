"""Operators whose kernels are known to allocate memory inside, which memory events do not show; what to say of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

# Seen on a CPU with torch 2.13, in the memory events of torch's profiler during one call. Parts of their names.
_ALLOCATES: Final = (
    "convolution",  # operands and results in blocked layouts (oneDNN)
    "rnn_layer",  # weights in another layout, and a workspace for backward (oneDNN)
    "_cudnn_rnn",
    "miopen_rnn",
    "embedding_bag",
    "native_group_norm_backward",
    "batch_norm_backward",
    "reflection_pad",
    "replication_pad",
    "grid_sampler",
    "im2col",
    "col2im",
    "upsample_",
    "logsumexp",
    "_euclidean_dist",
    "binary_cross_entropy_with_logits",
    "linalg_",
    "_fft_",
    "_trilinear",
    "_ctc_loss_backward",
)


def hidden_ops(ops: Iterable[str]) -> list[str]:
    """Those of the operators that are known to allocate inside, each once."""
    return sorted({op for op in ops if any(part in op for part in _ALLOCATES)})


def hidden_note(ops: Iterable[str]) -> str | None:
    """What is to be said of the peak of a trace with these operators; None where nothing is known against it."""
    found = hidden_ops(ops)
    if not found:
        return None
    names = ", ".join(found)
    return f"{names}: kernels that allocate memory inside, which memory events do not show: the peak is too low by that"
