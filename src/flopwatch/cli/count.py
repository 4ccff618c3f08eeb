"""`flopwatch count`: how much work a model is."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flopwatch import workload
from flopwatch.api.count import count as count_model
from flopwatch.api.count import default_seq_len, resolve_spec
from flopwatch.cli.options import Count, ModelOptions, PlotOptions, SeqLen
from flopwatch.cli.output import emit, note
from flopwatch.cli.request import request
from flopwatch.cost.convention import DEFAULT, Convention, convention_names, find_convention, load_conventions
from flopwatch.device.detect import environment
from flopwatch.errors import DoesNotFitError, InputError
from flopwatch.model.load import config_file, is_factory, longest_context, read_config
from flopwatch.record import CountResult, make_record
from flopwatch.workload import Workload


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TraceOptions:
    """The real module instead of the closed form."""

    trace: Annotated[bool, Parameter(negative="")] = False
    """Run the real module once on tensors without data and count its operators; with modules and operators."""
    reconcile: Annotated[bool, Parameter(negative="")] = False
    """Trace, and show the closed form beside it term by term, the largest disagreement first."""
    strict: Annotated[bool, Parameter(negative="")] = False
    """Trace, and exit with 3 when anything that looks like a matmul is not counted."""
    trust_remote_code: Annotated[bool, Parameter(negative="")] = False
    """Let transformers run code from the model's folder."""

    @property
    def is_wanted(self) -> bool:
        """Whether any of the options asks for a trace."""
        return self.trace or self.reconcile or self.strict


def count(
    model: str,
    *models: str,
    batch: Count = 1,
    seq: SeqLen | None = None,
    phase: workload.Phase = "forward",
    recompute: workload.Recompute = "none",
    attention: workload.Attention = "auto",
    ops: workload.Ops = "fused",
    accumulate: Count = 1,
    convention: str = DEFAULT,
    convention_file: Path | None = None,
    trace_options: TraceOptions | None = None,
    model_options: ModelOptions | None = None,
    output: PlotOptions | None = None,
) -> int:
    """Parameters and FLOPs of a model, by part: in closed form, exact, without torch; or by a trace.

    Parameters
    ----------
    model
        A preset (gpt-small, llama-3.1-8b), a Hugging Face config.json or its folder, a spec file, hf:ORG/NAME, or
        (with --trace) package.module:factory, which runs your code.
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
    ops
        Style of the reference network that --trace runs; the count is the same.
    accumulate
        Micro-batches in one training step.
    convention
        How FLOPs are counted (docs/conventions.md), or `all` for one line under each.
    convention_file
        A TOML file with conventions of your own.
    """
    names = (model, *models)
    changes = (model_options or ModelOptions()).changes()
    traced, output = trace_options or TraceOptions(), output or PlotOptions()
    rules = _rules(convention, convention_file)
    if traced.is_wanted and convention != DEFAULT:
        raise InputError(f"--trace counts what ran, not under --convention {convention}", hint="leave one of them out")
    results: list[CountResult] = []
    for name in names:
        work = Workload(
            batch=batch,
            seq_len=_seq_len(name, seq, changes, traced),
            phase=phase,
            recompute=recompute,
            attention=attention,
            ops=ops,
            n_accumulate=accumulate,
        )
        if traced.is_wanted:
            results.append(_by_trace(name, work, changes, traced, output))
        else:
            results += [count_model(resolve_spec(name, changes), work, convention=rule) for rule in rules]
    asked = request(
        models=list(names),
        batch=batch,
        seq_len=seq,
        phase=phase,
        convention=convention,
        workload={"recompute": recompute, "attention": attention, "ops": ops, "n_accumulate": accumulate},
    )
    emit(make_record("count", environment=environment(), request=asked, results=results), output)
    return _check_complete(results) if traced.strict else 0


def _seq_len(name: str, seq: int | None, changes: dict[str, str], traced: TraceOptions) -> int:
    """The sequence length that was asked for, or 1024 tokens, or the whole context where that is shorter."""
    if seq is not None:
        return seq
    if is_factory(name):
        return Workload().seq_len
    file = config_file(name) if traced.is_wanted else None
    if file is None:
        return default_seq_len(resolve_spec(name, changes))
    return min(Workload().seq_len, longest_context(read_config(file)) or Workload().seq_len)


def _rules(name: str, file: Path | None) -> list[Convention]:
    """The conventions to count under: one, or every one that is known for `all`."""
    own = load_conventions(file) if file is not None else {}
    if name == "all":
        return [find_convention(each, own) for each in (*convention_names(), *own)]
    return [find_convention(name, own)]


def _by_trace(
    name: str, work: Workload, changes: dict[str, str], traced: TraceOptions, output: PlotOptions
) -> CountResult:
    from flopwatch.api.traced import count_by_trace

    if is_factory(name):
        note(f"running your code: {name}", output)
    return count_by_trace(
        name,
        work,
        changes=changes,
        trust_remote_code=traced.trust_remote_code,
        reconcile_with_spec=traced.reconcile,
    )


def _check_complete(results: list[CountResult]) -> int:
    """0 when every matmul was counted; the record has been printed when this raises."""
    for result in results:
        missing = [f"{entry.op} ({entry.calls} calls)" for entry in result.uncounted if entry.looks_like_matmul]
        if missing:
            raise DoesNotFitError(
                f"{result.model}: not counted, and it looks like a matmul: {', '.join(missing)}",
                hint="give its FLOPs with fw.trace(step, formulas={operator: function})",
            )
    return 0
