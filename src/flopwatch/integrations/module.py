"""What a module that is trained tells of itself: the dtype of its fp32 matmuls, what is frozen, what is run again."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from flopwatch.api.meter import Meter, MeterWarning


def matmul_dtype(dtype: str, device_type: str) -> str:
    """`dtype`, or tf32 where torch was told to run fp32 matmuls of an NVIDIA or AMD GPU in it."""
    if dtype != "fp32" or device_type != "cuda":
        return dtype
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # torch 2.9: reading the flag before it raises once both were set
        return "tf32" if matmul.fp32_precision == "tf32" else dtype
    return "tf32" if matmul.allow_tf32 else dtype


def warn_of_frozen(meter: Meter, module: Any) -> None:
    """Say that a named model is counted with all its weights trained, where some of the module's are not."""
    sizes = [(numel(parameter), parameter.requires_grad) for parameter in module.parameters()]
    n_frozen = sum(n for n, is_trained in sizes if not is_trained)
    if n_frozen:
        text = (
            f"{n_frozen:,} of {sum(n for n, _ in sizes):,} parameters are not trained, which costs less than is counted"
            " for MFU and HFU: give flops_per_token, such as fw.trace(step).total / tokens, in place of model"
        )
        tell(meter, text, stacklevel=4)


def work_of_shape(meter: Meter, n_sequences: int, length: int) -> dict[str, Any]:
    """What `Meter.add` is told of rows of one length; a number for another length is taken as it is, and warned of."""
    tokens = {"tokens": n_sequences * length}
    cost = meter.cost
    if cost.model is not None:
        return tokens | {"sequences": n_sequences}
    if cost.reason is None and cost.seq_len is not None and length != cost.seq_len:
        text = (
            f"flops_per_token holds for sequences of {cost.seq_len}, and others are trained: MFU and HFU are off by"
            " their attention; give attention_flops_per_pair too"
        )
        if text not in meter.notes:
            tell(meter, text, stacklevel=4)
    return tokens


def recomputed(module: Any) -> str:
    """Which layers run their forward pass again in backward, as transformers marks them: `none`, `some` or `full`."""
    marks = [bool(part.gradient_checkpointing) for part in module.modules() if hasattr(part, "gradient_checkpointing")]
    if not any(marks):
        return "none"
    return "full" if all(marks) else "some"


def warn_of_recomputed(meter: Meter) -> None:
    """Say that layers are computed again, which the count that the user gave does not hold."""
    text = (
        "layers are computed again (gradient checkpointing), and HFU does not hold it: give recompute='full' beside"
        " model, or hardware_flops_per_token, such as fw.trace(step).hardware_total / tokens"
    )
    tell(meter, text, stacklevel=4)


def tell(meter: Meter, text: str, *, stacklevel: int = 3) -> None:
    """Say something of a meter's figures, as a warning and in its notes."""
    meter.notes.append(text)
    warnings.warn(text, MeterWarning, stacklevel=stacklevel)


def numel(parameter: Any) -> int:
    """Elements of a parameter, of the whole one where DeepSpeed keeps only a part here."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))
