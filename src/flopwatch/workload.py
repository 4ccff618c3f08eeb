"""Workload: what is asked of a network (batch, sequence, phase, dtype), checked once when it is made."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from flopwatch.errors import SpecError
from flopwatch.fields import check_fields

Phase = Literal["forward", "train", "prefill", "decode"]
DType = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp64"]
Optimizer = Literal["adamw", "sgd", "none"]
AdamW = Literal["auto", "single", "foreach", "fused"]
Recompute = Literal["none", "full"]
Attention = Literal["auto", "math", "flash"]
Ops = Literal["elementary", "fused"]
Precision = Literal["pure", "autocast"]
Loss = Literal["cross-entropy", "sum"]

DTYPE_BYTES: Final[dict[str, int]] = {"fp64": 8, "fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}
_AUTOCAST_DTYPES: Final = ("bf16", "fp16")
"""What torch.autocast casts to; told another, it does nothing, and the step goes on in fp32."""
_MOST: Final = 1 << 40


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked of a network: `batch` sequences of `seq_len` tokens in one `phase`.

    forward: all logits, no gradients. train: loss, backward, optimizer. prefill: fills the KV cache, logits of the
    last token. decode: one new token for each sequence, attending to `seq_len` keys, its own included.
    `adamw`: how AdamW updates, one parameter after the other, all at once, or in one kernel; auto is torch's choice.
    Raises SpecError (exit code 2) for a size below 1, and for fields that contradict one another.
    """

    batch: int = 1
    seq_len: int = 1024
    phase: Phase = "forward"
    dtype: DType = "fp32"
    precision: Precision = "pure"
    optimizer: Optimizer = "adamw"
    adamw: AdamW = "auto"
    loss: Loss = "cross-entropy"
    recompute: Recompute = "none"
    attention: Attention = "auto"
    ops: Ops = "fused"
    n_accumulate: int = 1

    def __post_init__(self) -> None:
        for name in ("batch", "seq_len", "n_accumulate"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 0 < value <= _MOST:
                raise SpecError(f"{name}={value} is not a positive whole number", hint="it counts from 1")
        check_fields(self, SpecError)
        if self.recompute != "none" and self.phase != "train":
            raise SpecError(
                f"recompute={self.recompute} has no meaning in phase {self.phase}",
                hint="activations are recomputed in a backward pass: use phase train",
            )
        if self.adamw != "auto" and self.optimizer != "adamw":
            raise SpecError(
                f"adamw={self.adamw} contradicts optimizer={self.optimizer}", hint="leave one of the two out"
            )
        if self.ops == "elementary" and self.attention == "flash":
            raise SpecError(
                "attention=flash contradicts ops=elementary",
                hint="elementary writes masked scores and softmax out; use ops fused",
            )

    @property
    def is_train(self) -> bool:
        """Whether gradients are computed and weights updated."""
        return self.phase == "train"

    @property
    def optimizer_name(self) -> str:
        """The optimizer as it is printed: `adamw`, `adamw fused`, `sgd`, `none`."""
        return self.optimizer if self.adamw == "auto" else f"{self.optimizer} {self.adamw}"

    @property
    def n_queries(self) -> int:
        """Positions computed for each sequence."""
        return 1 if self.phase == "decode" else self.seq_len

    @property
    def n_logit_positions(self) -> int:
        """Positions for each sequence that pass the output head."""
        return 1 if self.phase in {"prefill", "decode"} else self.seq_len

    @property
    def n_tokens(self) -> int:
        """Tokens that one step works on, all accumulated micro-batches together."""
        return self.batch * self.n_queries * self.n_accumulate

    @property
    def element_bytes(self) -> int:
        """Bytes of one weight or activation."""
        return DTYPE_BYTES[self.dtype]

    def check_precision(self) -> None:
        """Raise SpecError for autocast to a dtype that torch does not cast to."""
        if self.precision == "autocast" and self.dtype not in _AUTOCAST_DTYPES:
            raise SpecError(f"precision=autocast does not cast to dtype={self.dtype}", hint="use bf16 or fp16")

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain data."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields
