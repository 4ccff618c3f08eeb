"""`flopwatch memory`: does it fit, and what takes the room."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from flopwatch import workload
from flopwatch.api.count import DEFAULT_SEQ_LEN, default_seq_len, resolve_spec
from flopwatch.api.memory import memory as memory_of
from flopwatch.api.own import own_memory_result
from flopwatch.cli.notes import notes_of
from flopwatch.cli.options import (
    Bytes,
    Count,
    DTypeOption,
    ModelOptions,
    OutputOptions,
    PlotOptions,
    SeqLen,
    refuse_outside_training,
)
from flopwatch.cli.output import emit, note
from flopwatch.cli.request import request
from flopwatch.cost.eager.tuning import AdamW, Tuning
from flopwatch.device.detect import environment
from flopwatch.errors import DoesNotFitError, InputError
from flopwatch.measure.series import ProbeSeries
from flopwatch.model.load import is_factory
from flopwatch.model.own import own_model
from flopwatch.record import MemoryResult, make_record
from flopwatch.units import format_bytes
from flopwatch.workload import Workload


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryStep:
    """The step whose memory is asked for."""

    batch: Count = 1
    """Sequences in one step (of one micro-batch)."""
    seq: SeqLen | None = None
    """Tokens in a sequence, 8k = 8192; 1024 or the whole context where that is shorter."""
    phase: workload.Phase = "train"
    """forward: all logits, no gradients. train: loss, backward, optimizer. prefill, decode: with a KV cache."""
    dtype: DTypeOption = None
    """Weights, activations and optimizer state: bf16 when left out. fp8, int8: weights only, not in training."""
    precision: workload.Precision = "pure"
    """autocast: weights and optimizer in fp32, matmuls in --dtype."""
    optimizer: workload.Optimizer | None = None
    """The optimizer of a training step: adamw when left out."""
    loss: workload.Loss | None = None
    """sum: the sum of the output, as the notebook has it; cross-entropy when left out."""
    recompute: workload.Recompute = "none"
    """full: every layer is checkpointed."""
    attention: workload.Attention = "auto"
    """math keeps the scores, flash does not; auto is what torch takes."""
    ops: workload.Ops = "fused"
    """elementary: the network as the book builds it, from elementary operations."""
    accumulate: Count = 1
    """Micro-batches in one training step."""
    adamw: AdamW | None = None
    """single, foreach, fused or 8-bit: left out, torch's default (foreach on a GPU)."""
    train_only: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """Train only these modules (`head`, `layers.11`), the rest is frozen."""
    lora_rank: Count | None = None
    """Freeze everything, and train LoRA adapters of this rank beside the linear layers of the blocks."""

    def __post_init__(self) -> None:
        given: dict[str, object] = {
            "--optimizer": self.optimizer,
            "--loss": self.loss,
            "--adamw": self.adamw,
            "--train-only": ",".join(self.train_only) or None,
            "--lora-rank": self.lora_rank,
            "--accumulate": None if self.accumulate == 1 else self.accumulate,
        }
        refuse_outside_training(self.phase, given)
        if self.lora_rank == 0:
            raise InputError("--lora-rank 0 is no adapter", hint="it counts from 1; leave it out to train everything")
        if self.adamw is not None and self.optimizer not in {None, "adamw"}:
            raise InputError(f"--adamw {self.adamw} contradicts --optimizer {self.optimizer}", hint="leave one out")

    def workload(self, seq_len: int) -> Workload:
        """The workload that is meant, of sequences of `seq_len` where nothing else is said."""
        return Workload(
            batch=self.batch,
            seq_len=self.seq if self.seq is not None else seq_len,
            phase=self.phase,
            dtype=self.dtype or "bf16",
            precision=self.precision,
            optimizer=self.optimizer or "adamw",
            loss=self.loss or "cross-entropy",
            recompute=self.recompute,
            attention=self.attention,
            ops=self.ops,
            n_accumulate=self.accumulate,
        )

    def asked(self) -> dict[str, Any]:
        """The step for a record's request; each result says its own length of the sequences."""
        step = self.workload(1).to_dict()
        del step["seq_len"]
        return step | {"train_only": self.train_only, "lora_rank": self.lora_rank, "adamw": self.adamw or "auto"}

    def tuning(self, *, is_gpu: bool) -> Tuning | None:
        """What is not torch's default of all parameters; None for that."""
        if self.adamw is None and not self.train_only and self.lora_rank is None:
            return None
        default: AdamW = "foreach" if is_gpu else "single"
        return Tuning(train_only=self.train_only, lora_rank=self.lora_rank or 0, adamw=self.adamw or default)


def memory(
    model: str,
    *models: str,
    device: str | None = None,
    limit: Bytes | None = None,
    trace: Annotated[bool, Parameter(negative="")] = False,
    step: MemoryStep | None = None,
    model_options: ModelOptions | None = None,
    output: PlotOptions | None = None,
) -> None:
    """Peak memory of one step by part, predicted: from the model's numbers alone, or by a trace.

    With --device the step is replayed through a model of torch's allocator; one that does not fit is exit code 3.

    Parameters
    ----------
    model
        A preset (gpt-small, llama-3.1-8b), a Hugging Face config.json or its folder, a spec file, hf:ORG/NAME, or
        (with --trace) package.module:factory, which runs your code (docs/models.md).
    models
        More models.
    device
        A card by name ("A100 SXM4 40GB"), here or not.
    limit
        Memory that the card's allocator may reserve, 39800MiB; left out, all that the card has.
    trace
        From a run of the real step on tensors without data (needs torch), as a CPU runs it.
    """
    step, output = step or MemoryStep(), output or PlotOptions()
    tuning = step.tuning(is_gpu=device is not None)
    results = []
    changes = (model_options or ModelOptions()).changes()
    for name in (model, *models):
        if is_factory(name) and trace:
            results.append(_of_own(name, changes, step, output, is_bare=device is None and limit is None))
            continue
        spec = resolve_spec(name, changes)
        work = step.workload(default_seq_len(spec))
        results.append(memory_of(spec, work, device=device, limit_bytes=limit, trace=trace, tuning=tuning))
    asked = request(models=[model, *models], workload=step.asked(), device=device, limit_bytes=limit, trace=trace)
    record = make_record(
        "memory", environment=environment(), request=asked, results=results, warnings=notes_of(results)
    )
    emit(record, output)
    for result in results:
        _check_fits(result)


def _of_own(
    name: str, changes: dict[str, str], step: MemoryStep, output: OutputOptions, *, is_bare: bool
) -> MemoryResult:
    """The answer for code of the user's; raises InputError for what only the written-out step can be asked."""
    if not is_bare or step.train_only or step.lora_rank is not None or step.adamw == "8-bit":
        raise InputError(
            f"a trace of {name} is of what it trains, as a CPU runs it",
            hint="leave out --device, --limit, --train-only, --lora-rank and --adamw 8-bit",
        )
    note(f"running your code: {name}", output)
    work = msgspec.structs.replace(step.workload(DEFAULT_SEQ_LEN), adamw=step.adamw or "auto")
    return own_memory_result(own_model(name, changes), work, ProbeSeries(), keep_dtype=step.dtype is None)


def _check_fits(result: MemoryResult) -> None:
    """Raise DoesNotFitError, after the answer is shown, for a step that the device has no room for."""
    verdict = result.details.get("device")
    if verdict is None or verdict["fits"] is not False:
        return
    allowed = verdict["limit_bytes"] or verdict["memory_bytes"]
    raise DoesNotFitError(
        f"{result.model} needs {format_bytes(result.peak_bytes)} of {format_bytes(allowed)} on {verdict['name']}",
        hint="try a smaller --batch, --recompute full or --dtype bf16",
    )
