"""The options that commands share. A command takes only those that it honours."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from flopwatch import units, workload
from flopwatch.errors import InputError
from flopwatch.report.messages import Language


def _by(parse: Callable[[str], float]) -> Callable[[Any, Sequence[Any]], float]:
    """A converter for cyclopts from one of the parsers in units.py."""

    def convert(_type: Any, tokens: Sequence[Any]) -> float:
        try:
            return parse(tokens[0].value)
        except InputError as error:
            token = tokens[0]
            is_typed = token.source in {"", "cli", "env"} or not token.keyword
            name = (token.keyword or token.source) if is_typed else f"{token.source}: {token.keyword.strip('[]')}"
            raise InputError(f"{name}: {error.message}", hint=error.hint) from error

    return convert


Count = Annotated[int, Parameter(converter=_by(units.parse_count))]
SeqLen = Annotated[int, Parameter(converter=_by(units.parse_seq_len))]
Bytes = Annotated[int, Parameter(converter=_by(units.parse_bytes))]
Rate = Annotated[float, Parameter(converter=_by(units.parse_rate))]
Seconds = Annotated[float, Parameter(converter=_by(units.parse_seconds))]
DTypeOption = Annotated[workload.DType | None, Parameter(name="--dtype")]
LanguageOption = Annotated[Language, Parameter(name="--lang")]
_MOST_S = 30 * 24 * 3600


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Changes to the named model."""

    set: Annotated[tuple[str, ...], Parameter(name="--set", negative="", consume_multiple=False)] = ()
    """Change a field of the model: `--set n_layers=24` (repeatable)."""

    def changes(self) -> dict[str, str]:
        """The changes as field -> text; raises InputError for one that is not NAME=VALUE."""
        pairs = {}
        for text in self.set:
            name, sign, value = text.partition("=")
            if not sign or not name.strip():
                raise InputError(f"--set {text!r} is not NAME=VALUE", hint="write it like --set n_layers=24")
            pairs[name.strip()] = value.strip()
        return pairs


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """Where measurements are kept."""

    store: Path | None = None
    """The results store, an SQLite file (else FLOPWATCH_STORE, else the user's data folder)."""


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions(StoreOptions):
    """How a run that measures is kept and continued."""

    resume: Annotated[bool, Parameter(negative="")] = False
    """Go on with the run that was asked the same and ended too early; nothing is measured twice."""
    timeout: float | None = None
    """Seconds after which one try or one timing is given up (600, timings 1800, choices of --explore sooner)."""

    def __post_init__(self) -> None:
        if self.timeout is not None and not 0 < self.timeout <= _MOST_S:
            raise InputError(f"--timeout {self.timeout:g} is not between 0 and {_MOST_S} s", hint="give seconds")


def refuse_outside_training(phase: workload.Phase, given: Mapping[str, object]) -> None:
    """Raise InputError for an option (name -> value, None: not given) that only a training step can honour."""
    for name, value in given.items():
        if value is not None and phase != "train":
            raise InputError(f"{name} {value} has no meaning in phase {phase}", hint="use --phase train")


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class StepOptions:
    """The step that is run here."""

    seq: SeqLen | None = None
    """Tokens in a sequence, 8k = 8192; 1024 or the whole context where that is shorter."""
    phase: workload.Phase = "train"
    """forward: all logits, no gradients. train: loss, backward, optimizer. prefill, decode: with a KV cache."""
    dtype: DTypeOption = None
    """Weights, activations and optimizer state; left out, what is fast here, which is printed."""
    precision: workload.Precision = "pure"
    """autocast: weights and optimizer in fp32, matmuls in --dtype."""
    optimizer: workload.Optimizer | None = None
    """The optimizer of a training step: adamw when left out."""
    adamw: workload.AdamW | None = None
    """How AdamW updates: single, one parameter after the other; foreach, all at once; fused, in one kernel."""
    loss: workload.Loss | None = None
    """sum: the sum of the output, as the notebook has it; cross-entropy when left out."""
    recompute: workload.Recompute = "none"
    """full: every layer is checkpointed."""
    attention: workload.Attention = "auto"
    """math writes the scores out, flash does not; auto is what torch takes."""
    ops: workload.Ops = "fused"
    """elementary: the network as the book builds it, from elementary operations."""
    accumulate: Count = 1
    """Micro-batches in one training step."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, rocm, xpu or mps."""

    def __post_init__(self) -> None:
        given: dict[str, object] = {
            "--optimizer": self.optimizer,
            "--adamw": self.adamw,
            "--loss": self.loss,
            "--accumulate": None if self.accumulate == 1 else self.accumulate,
        }
        refuse_outside_training(self.phase, given)
        if self.adamw not in {None, "auto"} and self.optimizer not in {None, "adamw"}:
            raise InputError(f"--adamw {self.adamw} contradicts --optimizer {self.optimizer}", hint="leave one out")
        if self.dtype in {"fp8", "int8"}:
            raise InputError(f"--dtype {self.dtype} cannot be run", hint="use fp32, bf16 or fp16")

    def workload(self, *, seq_len: int, dtype: workload.DType) -> workload.Workload:
        """The workload with what was left out filled in; its batch is 1."""
        work = workload.Workload(
            seq_len=self.seq if self.seq is not None else seq_len,
            phase=self.phase,
            dtype=self.dtype or dtype,
            precision=self.precision,
            optimizer=self.optimizer or "adamw",
            adamw=self.adamw or "auto",
            loss=self.loss or "cross-entropy",
            recompute=self.recompute,
            attention=self.attention,
            ops=self.ops,
            n_accumulate=self.accumulate,
        )
        work.check_precision()
        return work


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where the answer goes and how it looks."""

    json: Annotated[bool, Parameter(negative="")] = False
    """Print the record as one JSON document."""
    markdown: Annotated[bool, Parameter(negative="")] = False
    """Print tables in Markdown, for a pull request or a note."""
    latex: Annotated[bool, Parameter(negative="")] = False
    """Print tables in LaTeX, for a paper (booktabs)."""
    csv: Annotated[bool, Parameter(negative="")] = False
    """Print one row a result, raw figures under their names in the record."""
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None
    """Write the record (JSON) to this file too."""
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False
    """No progress and no notes on stderr (errors stay)."""
    lang: LanguageOption = "en"
    """Language of tables, Markdown and pages: English or Chinese. JSON and CSV are the same in both."""

    def __post_init__(self) -> None:
        forms = {"--json": self.json, "--markdown": self.markdown, "--latex": self.latex, "--csv": self.csv}
        wanted = [name for name, is_wanted in forms.items() if is_wanted]
        if len(wanted) > 1:
            raise InputError(f"{' and '.join(wanted)} contradict each other", hint="give one of them")


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PlotOptions(OutputOptions):
    """Where the answer goes and how it looks, of a command whose answer has charts."""

    plots: Path | None = None
    """Write each chart as PNG and SVG into this folder (needs flopwatch[plots] and a Chrome or Chromium)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.plots is not None:
            from flopwatch.cli.plots import check_plots_into  # what draws is looked for only when it is wanted

            check_plots_into(self.plots)
