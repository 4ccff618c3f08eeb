"""`flopwatch count`: how much work a model is."""

from __future__ import annotations

from pathlib import Path

from flopwatch import workload
from flopwatch.api.count import count as count_model
from flopwatch.api.count import default_seq_len, resolve_spec
from flopwatch.cli.options import Count, ModelOptions, OutputOptions, SeqLen
from flopwatch.cli.output import emit
from flopwatch.cli.request import request
from flopwatch.cost.convention import Convention, convention_names, find_convention, load_conventions
from flopwatch.device.detect import environment
from flopwatch.record import make_record
from flopwatch.workload import Workload


def count(
    model: str,
    *models: str,
    batch: Count = 1,
    seq: SeqLen | None = None,
    phase: workload.Phase = "forward",
    recompute: workload.Recompute = "none",
    attention: workload.Attention = "auto",
    accumulate: Count = 1,
    convention: str = "matmul",
    convention_file: Path | None = None,
    model_options: ModelOptions | None = None,
    output: OutputOptions | None = None,
) -> None:
    """Parameters and FLOPs of a model, by part, in closed form: exact, without torch.

    Parameters
    ----------
    model
        A preset (gpt-small, llama-3.1-8b), a Hugging Face config.json or its folder, a spec file, hf:ORG/NAME.
    models
        More models.
    batch
        Sequences in one step (of one micro-batch).
    seq
        Tokens in a sequence, 8k = 8192; 1024 or the whole context where that is shorter.
    phase
        forward: all logits. train: with backward. prefill: fills the KV cache. decode: one token a sequence.
    recompute
        full: every layer is checkpointed, and its forward is run again in backward.
    attention
        flash: a fused kernel, which computes the scores again in backward (in-kernel, HFU only).
    accumulate
        Micro-batches in one training step.
    convention
        How FLOPs are counted (docs/conventions.md), or `all` for one line under each.
    convention_file
        A TOML file with conventions of your own.
    """
    names = (model, *models)
    changes = (model_options or ModelOptions()).changes()
    rules = _rules(convention, convention_file)
    results = []
    for name in names:
        spec = resolve_spec(name, changes)
        work = Workload(
            batch=batch,
            seq_len=seq if seq is not None else default_seq_len(spec),
            phase=phase,
            recompute=recompute,
            attention=attention,
            n_accumulate=accumulate,
        )
        results += [count_model(spec, work, convention=rule) for rule in rules]
    asked = request(models=list(names), batch=batch, seq_len=seq, phase=phase, convention=convention)
    emit(
        make_record("count", environment=environment(), request=asked, results=results),
        output or OutputOptions(),
    )


def _rules(name: str, file: Path | None) -> list[Convention]:
    """The conventions to count under: one, or every one that is known for `all`."""
    own = load_conventions(file) if file is not None else {}
    if name == "all":
        return [find_convention(each, own) for each in (*convention_names(), *own)]
    return [find_convention(name, own)]
