"""Peak memory of a workload from the spec alone: no torch, no device.

The step is written out on tensors that have only a size (cost/eager), so that lifetimes are those of the real
program: what each operator saves for its backward, what it releases, what a checkpoint computes again.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from flopwatch.cost.eager.step import write_tape
from flopwatch.cost.eager.tape import Peak, Tape
from flopwatch.cost.eager.tuning import Tuning, tuning_of
from flopwatch.errors import SpecError
from flopwatch.model.spec import ModelSpec
from flopwatch.tally import Tally
from flopwatch.workload import Workload

_ADAMW: Final = {
    "single": "AdamW with two moments in the dtype of the weights, one parameter after the other (foreach=False)",
    "foreach": "AdamW with two moments in the dtype of the weights, all parameters at once (foreach=True)",
    "fused": "AdamW with two moments in the dtype of the weights, in one kernel (fused=True)",
    "8-bit": "AdamW with two moments of 8 bits (bitsandbytes: blocks of 256, fp32 below 4096 elements)",
}
# Seen for weight gradients of [R, 768] x [R, 3072] and R from 741 on: oneDNN in torch 2.13, AVX-512 with bf16.
_HALF_ON_CPU: Final = (
    "buffers inside matmul kernels, which no run without data sees, are left out: up to 1.1 MiB a thread on a CPU with"
    " bf16 instructions"
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """Predicted peak: bytes of all tensors alive at the worst moment, by part, and what was assumed.

    `peak` names the operator, module and phase of that moment, and the largest blocks alive then.
    """

    peak_bytes: int
    parts: Tally
    assumptions: tuple[str, ...]
    peak: Peak


def estimate_memory(
    spec: ModelSpec,
    workload: Workload,
    *,
    foreach: bool = False,
    device_type: str = "cpu",
    tuning: Tuning | None = None,
) -> MemoryEstimate:
    """The predicted peak of a step of `workload`, in steady state (the optimizer's moments are there).

    `foreach`: AdamW updates all parameters at once, torch's default on CUDA, unless the workload says how. `tuning`:
    frozen parameters, adapters, and other AdamWs. Bytes are those that the program asks for; an allocator's rounding
    and a device's context are not in it. Raises SpecError for what cannot be estimated.
    """
    tuning = _tuning(tuning, workload, foreach=foreach)
    tape = step_tape(spec, workload, device_type=device_type, tuning=tuning)
    peak = tape.peak()
    return MemoryEstimate(
        peak_bytes=peak.n_bytes,
        parts=peak.parts,
        assumptions=_assumptions(spec, workload, tuning, device_type=device_type),
        peak=peak,
    )


def step_tape(
    spec: ModelSpec,
    workload: Workload,
    *,
    foreach: bool = False,
    device_type: str = "cpu",
    n_steps: int = 1,
    tuning: Tuning | None = None,
) -> Tape:
    """Every allocation and release of the network and `n_steps` steps; raises SpecError for what has no such step."""
    tuning = _tuning(tuning, workload, foreach=foreach)
    _check(spec, workload)
    return write_tape(spec, workload, tuning=tuning, device_type=device_type, n_steps=n_steps)


def _tuning(tuning: Tuning | None, workload: Workload, *, foreach: bool) -> Tuning:
    """The tuning that is meant: `foreach` is short for the AdamW of that name, where the workload names none."""
    return tuning if tuning is not None else tuning_of(workload, default="foreach" if foreach else "single")


def _check(spec: ModelSpec, workload: Workload) -> None:
    if workload.dtype in {"fp8", "int8"} and (workload.is_train or workload.precision == "autocast"):
        raise SpecError(
            f"dtype={workload.dtype} in phase {workload.phase} has no one meaning for memory",
            hint="estimate it in bf16; fp8 and int8 are for weights in phases forward, prefill and decode",
        )
    if spec.n_mtp_layers and workload.phase in {"train", "forward"}:
        raise SpecError(
            f"memory of n_mtp_layers={spec.n_mtp_layers} is not known in phase {workload.phase}",
            hint="use --set n_mtp_layers=0, or phases prefill and decode",
        )


def _assumptions(spec: ModelSpec, workload: Workload, tuning: Tuning, *, device_type: str) -> tuple[str, ...]:
    attention = "math: all scores are kept" if workload.attention == "math" else "flash: no scores are kept"
    if workload.ops == "elementary":
        attention = "written out: scores, mask and softmax are tensors"
    lines = [f"attention {attention}", f"operators as torch runs them on {device_type}"]
    if workload.is_train:
        lines.append("logits are released before the backward pass where the loss does not need them")
        if workload.optimizer == "adamw":
            lines.append(_ADAMW[tuning.adamw])
        if tuning.lora_rank:
            lines.append(f"only LoRA adapters of rank {tuning.lora_rank} beside every linear layer of the blocks train")
        if tuning.train_only:
            lines.append(f"only {', '.join(tuning.train_only)} is trained")
        if workload.recompute == "full":
            lines.append("each layer is checkpointed (use_reentrant=False)")
    if device_type == "cpu" and workload.dtype in {"bf16", "fp16"}:
        lines.append(_HALF_ON_CPU)
    if workload.dtype in {"fp8", "int8"}:
        lines.append(f"weights in {workload.dtype}, everything else in bf16")
    if spec.moe is not None:
        lines.append("every expert gets the same number of tokens; more than 32 are written out in 32 bundles")
    return tuple(lines)
