"""One step of a workload (reference/step.py) on tensors without data: its tape."""

from __future__ import annotations

from collections.abc import Iterator

from flopwatch.cost.eager.arith import scale
from flopwatch.cost.eager.engine import Eager, pointwise
from flopwatch.cost.eager.layers import Style
from flopwatch.cost.eager.network import Network
from flopwatch.cost.eager.reduce import cross_entropy, total
from flopwatch.cost.eager.tape import Tape
from flopwatch.cost.eager.tensor import Tensor
from flopwatch.cost.eager.views import reshape
from flopwatch.model.spec import ModelSpec
from flopwatch.workload import Workload


def write_tape(
    spec: ModelSpec,
    workload: Workload,
    *,
    device_type: str = "cpu",
    foreach: bool = False,
    n_steps: int = 1,
    sees_kernels: bool = True,
    like_notebook: bool = False,
) -> Tape:
    """What building the network and `n_steps` steps of `workload` allocate and release.

    One step has the peak of all later ones when the optimizer's state is there from the start, as it is with
    `n_steps=1`; with more, the first step makes it, as in a real run.
    """
    e = Eager(device_type=device_type, sees_kernels=sees_kernels)
    style = _style(workload)
    network = Network(e, spec, style, has_recompute=workload.recompute == "full" and workload.is_train)
    network.keeps_embeddings = like_notebook
    parameters = list(network.parameters())
    optimizer = _Optimizer(e, workload.optimizer, parameters, foreach=foreach)
    e.tape.module = ""
    e.tape.op = "data"
    shape = (workload.batch, workload.n_queries)
    ids = e.empty(shape, "int64")
    targets = e.empty(shape, "int64") if workload.is_train else ids
    if n_steps == 1 and workload.is_train:
        optimizer.make_state()
    caches = None
    if workload.phase in {"prefill", "decode"}:
        length = 0 if workload.phase == "prefill" else workload.seq_len - 1
        dtype = style.activation_dtype
        caches = network.make_caches(workload.batch, workload.seq_len, length=length, dtype=dtype)
    e.tape.module = ""
    for _ in range(n_steps):
        if workload.is_train:
            _train(e, network, workload, ids, targets)
            optimizer.step()
        else:
            e.tape.phase = workload.phase
            with e.no_grad(), e.autocast(_autocast_dtype(workload)):
                network(ids) if caches is None else network.extend(ids, caches)
    e.tape.close()
    return e.tape


def _style(workload: Workload) -> Style:
    is_autocast = workload.precision == "autocast"
    weight_dtype = "fp32" if is_autocast else workload.dtype
    return Style(
        is_elementary=workload.ops == "elementary",
        attention="math" if workload.attention == "math" else "flash",
        weight_dtype=weight_dtype,
        activation_dtype="bf16" if weight_dtype in {"fp8", "int8"} else weight_dtype,
        is_trained=True,
    )


def _autocast_dtype(workload: Workload) -> str | None:
    return workload.dtype if workload.precision == "autocast" else None


def _train(e: Eager, network: Network, workload: Workload, ids: Tensor, targets: Tensor) -> None:
    for _ in range(workload.n_accumulate):
        e.tape.phase, e.tape.module = "forward", ""
        with e.autocast(_autocast_dtype(workload)):
            loss, logits = _loss(e, network, workload, ids, targets)
            kept = logits if network.keeps_embeddings else None
            del logits
        e.tape.phase, e.tape.module = "backward", ""
        e.backward(scale(e, loss) if workload.n_accumulate > 1 else loss)
        del loss, kept


def _loss(e: Eager, network: Network, workload: Workload, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = network(ids)
    with e.module("loss"):
        if workload.loss == "sum":
            return total(e, logits), logits
        batch, length, width = logits.shape
        return cross_entropy(e, reshape(e, logits, (batch * length, width)), targets), logits


class _Optimizer:
    """torch's AdamW or SGD with its defaults: its state, and what one step needs beside it."""

    def __init__(self, e: Eager, kind: str, parameters: list[Tensor], *, foreach: bool) -> None:
        self.e = e
        self.kind = kind
        self.parameters = parameters
        self.foreach = foreach
        self.state: list[Tensor] = []

    def make_state(self) -> None:
        """First and second moments, in the dtype of each parameter (none for SGD without momentum)."""
        if self.kind == "adamw" and not self.state:
            self.e.tape.op = "optimizer_state"
            for parameter in self.parameters:
                self.e.tape.module = self._module(parameter)
                self.state += [self.e.empty((), "fp32", "optimizer")]
                self.state += [self.e.empty(parameter.shape, parameter.dtype, "optimizer") for _ in range(2)]

    def step(self) -> None:
        """Update all parameters, then drop their gradients."""
        self.e.tape.phase = "optimizer"
        self.make_state()
        if self.kind == "adamw":
            self._adamw_foreach() if self.foreach else self._adamw()
        for parameter in self.parameters:
            if parameter.node is not None:
                parameter.node.grad = None

    def _adamw(self) -> None:
        """One parameter after the other; the last denominator lives until the next takes its name."""
        denominator: Tensor | None = None
        for parameter in self.parameters:
            self.e.tape.module = self._module(parameter)
            root = pointwise(self.e, "sqrt", parameter)
            divided = pointwise(self.e, "div", root)
            del root
            denominator = divided
            del divided
        del denominator

    def _adamw_foreach(self) -> None:
        """All parameters at once: one list of temporaries as large as all of them."""
        roots = list(self._each("sqrt"))
        del roots

    def _each(self, op: str) -> Iterator[Tensor]:
        for parameter in self.parameters:
            yield pointwise(self.e, op, parameter)

    def _module(self, parameter: Tensor) -> str:
        return parameter.node.module if parameter.node is not None else ""
