"""One step of a workload on the reference network: what is traced, probed and timed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flopwatch.errors import SpecError
from flopwatch.model.spec import ModelSpec
from flopwatch.reference.model import DTYPES, Reference, build_model
from flopwatch.workload import Workload

Step = Callable[[], None]


def build_step(
    spec: ModelSpec, workload: Workload, *, device: str = "cpu", seed: int = 0, compiled: bool = False
) -> Step:
    """A callable that runs one step of `workload` on a new reference network on `device`.

    Model, optimizer and data are made here, outside of what is timed. With `compiled` each layer goes through
    torch.compile, at its first call: equal layers share one compilation. Raises SpecError for a sequence longer than
    the context, or a dtype that torch cannot train in.
    """
    spec.check_seq_len(workload.seq_len)
    if workload.dtype not in DTYPES:
        raise SpecError(f"dtype={workload.dtype} cannot be run", hint=f"use one of {', '.join(DTYPES)}")
    model = build_model(
        spec,
        ops=workload.ops,
        attention=workload.attention,
        recompute=workload.recompute,
        device=device,
        dtype=torch.float32 if workload.precision == "autocast" else DTYPES[workload.dtype],
        seed=seed,
    )
    if compiled:
        for layer in model.layers:
            layer.compile()
    return make_step(model, workload, seed=seed)


def make_step(model: Reference, workload: Workload, *, seed: int = 0) -> Step:
    """A callable that runs one step of `workload` on `model`."""
    device = model.tokens.weight.device
    if workload.phase in {"prefill", "decode"}:
        return _cached_step(model, workload, _random_ids(model, workload, device, seed))
    ids = _random_ids(model, workload, device, seed)
    if workload.phase == "forward":
        return _forward_step(model, workload, ids)
    targets = _random_ids(model, workload, device, seed + 1)
    optimizer = make_optimizer(model, workload)
    return _train_step(model, workload, ids, targets, optimizer)


def make_optimizer(model: nn.Module, workload: Workload) -> torch.optim.Optimizer | None:
    """The workload's optimizer over the parameters that are trained, with torch's defaults where it says nothing."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if workload.optimizer == "none" or not trained:
        return None
    if workload.optimizer == "sgd":
        return torch.optim.SGD(trained, lr=1e-4)
    if workload.adamw == "auto":
        return torch.optim.AdamW(trained, lr=1e-4)
    return torch.optim.AdamW(trained, lr=1e-4, foreach=workload.adamw == "foreach", fused=workload.adamw == "fused")


def _random_ids(model: Reference, workload: Workload, device: torch.device, seed: int) -> Tensor:
    shape = (workload.batch, workload.n_queries)
    if device.type == "meta":
        return torch.empty(shape, dtype=torch.int64, device=device)
    generator = torch.Generator(device=device).manual_seed(seed)
    return torch.randint(model.spec.vocab_size, shape, device=device, generator=generator)


def autocast_of(model: nn.Module, workload: Workload) -> contextlib.AbstractContextManager[object]:
    """The context of the workload's matmuls where the module's weights are; nothing for pure precision.

    Raises SpecError for a dtype that torch does not cast to.
    """
    if workload.precision == "pure":
        return contextlib.nullcontext()
    workload.check_precision()
    first = next(model.parameters(), None)
    device_type = "cpu" if first is None or first.device.type == "meta" else first.device.type
    return torch.autocast(device_type, DTYPES[workload.dtype])


def _forward_step(model: Reference, workload: Workload, ids: Tensor) -> Step:
    def step() -> None:
        with torch.no_grad(), autocast_of(model, workload):
            model(ids)

    return step


def _train_step(
    model: Reference, workload: Workload, ids: Tensor, targets: Tensor, optimizer: torch.optim.Optimizer | None
) -> Step:
    def loss_and_output() -> tuple[Tensor, Tensor]:
        logits = model(ids)
        if workload.loss == "sum":
            return logits.sum(), logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten()), logits

    def step() -> None:
        for _ in range(workload.n_accumulate):
            with autocast_of(model, workload):
                loss, output = loss_and_output()
            kept = output if model.style == "elementary" else None  # the notebook's loop keeps it through backward
            del output
            (loss / workload.n_accumulate if workload.n_accumulate > 1 else loss).backward()
            del loss, kept
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        else:
            model.zero_grad(set_to_none=True)

    return step


def _cached_step(model: Reference, workload: Workload, ids: Tensor) -> Step:
    cache = model.make_cache(workload.batch, workload.seq_len)

    def step() -> None:
        for layer in cache:
            layer.length = 0 if workload.phase == "prefill" else workload.seq_len - 1
        with torch.no_grad(), autocast_of(model, workload):
            model.extend(ids, cache)

    return step
