"""One step of a workload (reference/step.py) on tensors without data: its tape."""

from __future__ import annotations

from typing import Final

from flopwatch.cost.eager.arith import scale
from flopwatch.cost.eager.engine import Eager
from flopwatch.cost.eager.layers import Style
from flopwatch.cost.eager.network import Network
from flopwatch.cost.eager.optimizer import Optimizer
from flopwatch.cost.eager.reduce import cross_entropy, total
from flopwatch.cost.eager.tape import Tape
from flopwatch.cost.eager.tensor import Tensor
from flopwatch.cost.eager.tuning import Tuning
from flopwatch.cost.eager.views import reshape
from flopwatch.errors import SpecError
from flopwatch.model.spec import ModelSpec
from flopwatch.workload import Workload

_MICRO_BATCHES: Final = 4
"""Micro-batches that are written out: from the second on, with the gradients there, one is like the other."""


def write_tape(
    spec: ModelSpec,
    workload: Workload,
    *,
    device_type: str = "cpu",
    tuning: Tuning | None = None,
    n_steps: int = 1,
    sees_kernels: bool = True,
) -> Tape:
    """What building the network and `n_steps` steps of `workload` allocate and release.

    One step has the peak of all later ones when the optimizer's state is there from the start, as it is with
    `n_steps=1`; with more, the first step makes it, as in a real run.
    """
    e = Eager(device_type=device_type, sees_kernels=sees_kernels)
    tuning = tuning or Tuning()
    style = _style(workload, tuning)
    network = Network(e, spec, style, has_recompute=workload.recompute == "full" and workload.is_train)
    trained = [parameter for parameter in network.parameters() if parameter.node is not None]
    _check_trained(spec, tuning, trained)
    optimizer = Optimizer(e, workload.optimizer, trained, adamw=tuning.adamw)
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


def _check_trained(spec: ModelSpec, tuning: Tuning, trained: list[Tensor]) -> None:
    modules = {parameter.node.module for parameter in trained if parameter.node is not None}
    for name in tuning.train_only:
        if not any(module == name or module.startswith(f"{name}.") for module in modules):
            raise SpecError(
                f"train_only={name} is no module of {spec.name} with parameters",
                hint="modules are tokens, positions, layers.0, layers.0.attention.q, ..., final_norm, head",
            )


def _style(workload: Workload, tuning: Tuning) -> Style:
    is_autocast = workload.precision == "autocast"
    weight_dtype = "fp32" if is_autocast else workload.dtype
    return Style(
        is_elementary=workload.ops == "elementary",
        attention="math" if workload.attention == "math" else "flash",
        weight_dtype=weight_dtype,
        activation_dtype="bf16" if weight_dtype in {"fp8", "int8"} else weight_dtype,
        tuning=tuning,
    )


def _autocast_dtype(workload: Workload) -> str | None:
    return workload.dtype if workload.precision == "autocast" else None


def _train(e: Eager, network: Network, workload: Workload, ids: Tensor, targets: Tensor) -> None:
    for _ in range(min(workload.n_accumulate, _MICRO_BATCHES)):
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
