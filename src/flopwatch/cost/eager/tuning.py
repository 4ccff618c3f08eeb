"""Tuning: which parameters are trained, and how AdamW updates them."""

from __future__ import annotations

from typing import Literal

import msgspec

from flopwatch.errors import SpecError
from flopwatch.workload import Workload

AdamW = Literal["single", "foreach", "fused", "8-bit"]


class Tuning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which parameters are trained, and how AdamW updates them.

    `train_only`: names of modules (`head`, `layers.11`, `layers.0.attention`); empty for all. `lora_rank`: all
    parameters are frozen but a pair of matrices [rank, I], [O, rank] beside every linear layer of the blocks (as PEFT's
    LoRA has them, in the dtype of the weights). `adamw`: `single` one parameter after the other (torch's default on a
    CPU), `foreach` all at once (on CUDA), `fused` one kernel without temporaries, `8-bit` moments of one byte in blocks
    of 256 with an fp32 scale each (tensors below 4096 elements keep fp32 ones), as bitsandbytes has them.
    """

    train_only: tuple[str, ...] = ()
    lora_rank: int = 0
    adamw: AdamW = "single"

    def __post_init__(self) -> None:
        if self.lora_rank < 0:
            raise SpecError(f"lora_rank={self.lora_rank} is negative", hint="use 0 for no adapters")
        if self.lora_rank and self.train_only:
            raise SpecError(
                f"lora_rank={self.lora_rank} contradicts train_only={','.join(self.train_only)}",
                hint="with adapters everything else is frozen",
            )

    def trains(self, module: str) -> bool:
        """Whether the own parameters of `module` are trained."""
        if self.lora_rank:
            return False
        return not self.train_only or any(module == name or module.startswith(f"{name}.") for name in self.train_only)


def tuning_of(workload: Workload, *, default: AdamW) -> Tuning:
    """All parameters trained, by the AdamW that the workload names, or by `default` where it names none."""
    return Tuning(adamw=default if workload.adamw == "auto" else workload.adamw)
