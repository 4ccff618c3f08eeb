"""Bytes that each operator of a step must move, beside the FLOPs it does, in closed form: the input of the roofline.

Compulsory traffic only: every operand read once, every result written once, as fused kernels do at best. What an
implementation moves on top (copies, unfused elementwise work, a cache that is too small) makes a step slower than
the roofline, never faster. Attention by a fused kernel does the scores of the causal triangle (or window) alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from flopwatch.errors import SpecError
from flopwatch.model.params import count_params
from flopwatch.model.spec import ModelSpec
from flopwatch.workload import Workload

Stage = Literal["forward", "backward", "recompute", "optimizer"]

# Parameter-sized arrays that an update reads and writes: AdamW reads p, g, m, v and writes p, m, v.
_OPTIMIZER_ARRAYS: Final = {"adamw": 7, "sgd": 3, "none": 0}


class Op(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of operator in one stage, all its `calls` together.

    `cold_bytes` come from memory in any case: weights, gradients of weights, optimizer state, the KV cache.
    `warm_bytes` are activations, which the operator before may have left in a cache that is large enough.
    `is_matmul` marks the linear layers: those whose weights a larger batch would use again.
    """

    part: str
    stage: Stage
    dtype: str
    calls: int
    flops: int = 0
    cold_bytes: int = 0
    warm_bytes: int = 0
    is_matmul: bool = False


class Linear(msgspec.Struct, frozen=True, kw_only=True):
    """`calls` linear layers: `rows` vectors through a [d_in, d_out] matrix (one of `n_matrices` that are read)."""

    part: str
    rows: int
    d_in: int
    d_out: int
    calls: int
    n_matrices: int = 1

    @property
    def flops(self) -> int:
        """Forward FLOPs of one call."""
        return 2 * self.rows * self.d_in * self.d_out

    @property
    def n_weights(self) -> int:
        """Weights that one call reads."""
        return self.n_matrices * self.d_in * self.d_out

    @property
    def n_activations(self) -> int:
        """Elements that one call reads and writes besides."""
        return self.rows * (self.d_in + self.d_out)


def step_ops(spec: ModelSpec, workload: Workload) -> list[Op]:
    """Every operator of one step with its FLOPs and bytes, equal ones of all layers together.

    Raises SpecError for mixed precision, whose casts it does not know, and for multi-token prediction.
    """
    if spec.n_mtp_layers and workload.n_logit_positions > 1:
        raise SpecError(
            f"no roofline of n_mtp_layers={spec.n_mtp_layers} is known in closed form",
            hint="use --set n_mtp_layers=0 for the model without them",
        )
    if workload.precision != "pure":
        raise SpecError(
            f"no roofline of precision={workload.precision} is known in closed form",
            hint="use --precision pure, or --trace",
        )
    forward = list(_forward(spec, workload))
    if not workload.is_train:
        return forward
    again = []
    if workload.recompute == "full":
        again = [msgspec.structs.replace(op, stage="recompute") for op in forward if op.part.startswith("layers.")]
    return [*forward, *again, *_backward(spec, workload), *_optimizer(spec, workload)]


def linears(spec: ModelSpec, workload: Workload) -> list[Linear]:
    """The linear layers of one forward pass, equal ones of all layers together."""
    rows = workload.n_tokens
    found = [
        Linear(part=f"layers.attention.{name}", rows=rows, d_in=d_in, d_out=d_out, calls=spec.n_layers)
        for name, (d_in, d_out) in _attention_matrices(spec).items()
    ]
    found += _ffn("layers.ffn", spec, spec.d_ff, rows=rows, calls=spec.n_dense_layers)
    moe = spec.moe
    if moe is not None:
        n_moe = spec.n_moe_layers
        found.append(Linear(part="layers.moe.router", rows=rows, d_in=spec.d_model, d_out=moe.n_experts, calls=n_moe))
        read = min(moe.n_experts, rows * moe.experts_per_token)
        found += _ffn(
            "layers.moe", spec, moe.d_ff_expert, rows=rows * moe.experts_per_token, calls=n_moe, n_matrices=read
        )
        found += _ffn("layers.shared", spec, moe.d_ff_shared, rows=rows, calls=n_moe)
        if moe.shared_gate:
            found.append(Linear(part="layers.shared.router_gate", rows=rows, d_in=spec.d_model, d_out=1, calls=n_moe))
    n_logit_rows = workload.batch * workload.n_accumulate * workload.n_logit_positions
    found.append(Linear(part="head", rows=n_logit_rows, d_in=spec.d_embed, d_out=spec.padded_vocab_size, calls=1))
    if spec.d_embed != spec.d_model:
        d_in, d_out = spec.d_embed, spec.d_model
        found.append(Linear(part="embedding.projection", rows=rows, d_in=d_in, d_out=d_out, calls=1))
        found.append(Linear(part="head_projection", rows=n_logit_rows, d_in=d_out, d_out=d_in, calls=1))
    return [linear for linear in found if linear.flops and linear.calls]


def _attention_matrices(spec: ModelSpec) -> dict[str, tuple[int, int]]:
    d = spec.d_model
    if spec.mla is None:
        return {
            "q": (d, spec.d_query),
            "k": (d, spec.d_kv),
            "v": (d, spec.d_kv),
            "out": (spec.d_query, d),
        }
    mla = spec.mla
    d_query = spec.n_heads * (mla.d_nope + mla.d_rope)
    queries = {"q_down": (d, mla.q_rank), "q_up": (mla.q_rank, d_query)} if mla.q_rank else {"q": (d, d_query)}
    return {
        **queries,
        "kv_down": (d, mla.kv_rank + mla.d_rope),
        "kv_up": (mla.kv_rank, spec.n_heads * (mla.d_nope + mla.d_value)),
        "out": (spec.d_attention_out, d),
    }


def _ffn(part: str, spec: ModelSpec, d_ff: int, *, rows: int, calls: int, n_matrices: int = 1) -> list[Linear]:
    d = spec.d_model
    sides = {"gate": (d, d_ff), "up": (d, d_ff), "down": (d_ff, d)}
    names = ("gate", "up", "down") if spec.is_gated else ("up", "down")
    return [
        Linear(
            part=f"{part}.{name}", rows=rows, d_in=sides[name][0], d_out=sides[name][1], calls=calls,
            n_matrices=n_matrices,
        )
        for name in names
    ]  # fmt: skip


def _forward(spec: ModelSpec, workload: Workload) -> Iterator[Op]:
    e, dtype = workload.element_bytes, workload.dtype
    n_micro = workload.n_accumulate  # each micro-batch reads the weights anew
    for linear in linears(spec, workload):
        yield Op(
            part=linear.part,
            stage="forward",
            dtype=dtype,
            calls=linear.calls * n_micro,
            flops=linear.flops * linear.calls,
            cold_bytes=linear.n_weights * linear.calls * n_micro * e,
            warm_bytes=linear.n_activations * linear.calls * e,
            is_matmul=True,
        )
    yield from _attention(spec, workload, stage="forward")
    for vector in _vector(spec, workload):
        warm_bytes = vector.forward * vector.calls * e
        yield Op(part=vector.part, stage="forward", dtype=dtype, calls=vector.calls * n_micro, warm_bytes=warm_bytes)


def _backward(spec: ModelSpec, workload: Workload) -> Iterator[Op]:
    """Two matmuls for each linear layer: its input's gradient, and its weights' (read and written when added up)."""
    e, dtype = workload.element_bytes, workload.dtype
    n_micro = workload.n_accumulate
    for linear in linears(spec, workload):
        calls = linear.calls * n_micro
        n_gradients = linear.n_weights * linear.calls * (1 if n_micro == 1 else 2 * n_micro)
        for name, cold in (("input", linear.n_weights * calls), ("weight", n_gradients)):
            yield Op(
                part=f"{linear.part}.{name}",
                stage="backward",
                dtype=dtype,
                calls=calls,
                flops=linear.flops * linear.calls,
                cold_bytes=cold * e,
                warm_bytes=linear.n_activations * linear.calls * e,
                is_matmul=True,
            )
    yield from _attention(spec, workload, stage="backward")
    for vector in _vector(spec, workload):
        warm_bytes = vector.backward * vector.calls * e
        yield Op(part=vector.part, stage="backward", dtype=dtype, calls=vector.calls * n_micro, warm_bytes=warm_bytes)


def _optimizer(spec: ModelSpec, workload: Workload) -> Iterator[Op]:
    n_arrays = _OPTIMIZER_ARRAYS[workload.optimizer]
    if n_arrays:
        cold_bytes = n_arrays * count_params(spec).total * workload.element_bytes
        yield Op(part=workload.optimizer, stage="optimizer", dtype=workload.dtype, calls=1, cold_bytes=cold_bytes)


def _attention(spec: ModelSpec, workload: Workload, *, stage: Literal["forward", "backward"]) -> Iterator[Op]:
    """Scores, softmax and values: one kernel that keeps the scores to itself, or matmuls that write them out."""
    is_fused = workload.attention != "math" and workload.ops == "fused"
    n_sequences = workload.batch * workload.n_accumulate
    d_value = spec.d_head if spec.mla is None else spec.mla.d_value
    d_kv_heads = spec.n_kv_heads if spec.mla is None else spec.n_heads
    e = workload.element_bytes
    for part, calls, window in (
        ("layers.attention.core", spec.n_layers - spec.n_windowed_layers, None),
        ("layers.attention.core_window", spec.n_windowed_layers, spec.window),
    ):
        if not calls:
            continue
        n_scores = n_sequences * spec.n_heads * _scores(workload, window, is_fused=is_fused)
        qk, av = 2 * n_scores * spec.d_head, 2 * n_scores * d_value
        queries = n_sequences * workload.n_queries * spec.n_heads * (spec.d_head + d_value)  # q read, result written
        n_keys = workload.seq_len if window is None else min(window, workload.seq_len)
        keys = n_sequences * n_keys * d_kv_heads * (spec.d_head + d_value)
        is_decode = workload.phase == "decode"
        written_out = 0 if is_fused else 4 * n_scores  # scores written, read and written by softmax, read for values
        flops = qk + av
        if stage == "backward":
            flops = 2 * flops + (qk if is_fused else 0)  # a fused kernel computes the scores again
            queries, keys, written_out = 2 * queries, 2 * keys, 2 * written_out
        yield Op(
            part=part,
            stage=stage,
            dtype=workload.dtype,
            calls=calls * workload.n_accumulate,
            flops=flops * calls,
            cold_bytes=keys * calls * e if is_decode else 0,
            warm_bytes=(queries + written_out + (0 if is_decode else keys)) * calls * e,
        )


def _scores(workload: Workload, window: int | None, *, is_fused: bool) -> int:
    """Scores of one head and sequence that are computed."""
    n_queries, n_keys = workload.n_queries, workload.seq_len
    if not is_fused:
        return n_queries * n_keys
    seen = n_keys if window is None else min(window, n_keys)
    if n_queries == 1:
        return seen
    return seen * (seen + 1) // 2 + (n_queries - seen) * seen  # the query at place i sees min(i, window) keys


class _Vector(msgspec.Struct, frozen=True, kw_only=True):
    """Elementwise work: elements that one call reads and writes at best, forward and backward."""

    part: str
    calls: int
    forward: int
    backward: int


def _vector(spec: ModelSpec, workload: Workload) -> list[_Vector]:
    """Elementwise work and norms by part. Backward of a norm reads gradient and input, and writes a gradient: 3."""
    rows, n = workload.n_tokens, spec.n_layers
    stream = rows * spec.d_model
    n_logit_rows = workload.batch * workload.n_accumulate * workload.n_logit_positions
    looked_up, table = rows * spec.d_embed, spec.padded_vocab_size * spec.d_embed
    rotated = rows * (spec.d_query + spec.d_kv)
    logits = n_logit_rows * spec.padded_vocab_size
    last = n_logit_rows * spec.d_model
    is_rope, has_table = spec.positions == "rope", spec.positions == "learned"
    found = [
        _Vector(part="embedding.tokens", calls=1, forward=2 * looked_up, backward=looked_up + table),
        _Vector(part="embedding.positions", calls=int(has_table), forward=2 * stream, backward=stream),
        _Vector(part="embedding.norm", calls=int(spec.embedding_norm), forward=2 * stream, backward=3 * stream),
        _Vector(part="layers.norms", calls=spec.norms_per_layer * n, forward=2 * stream, backward=3 * stream),
        _Vector(part="layers.attention.rope", calls=n if is_rope else 0, forward=2 * rotated, backward=2 * rotated),
        _Vector(part="layers.residual", calls=2 * n, forward=3 * stream, backward=3 * stream),
        _activation("layers.ffn", spec, rows * spec.d_ff, calls=spec.n_dense_layers),
        _Vector(part="final_norm", calls=int(spec.final_norm), forward=2 * last, backward=3 * last),
        _Vector(part="loss", calls=int(workload.is_train), forward=2 * logits, backward=2 * logits),
    ]
    if spec.moe is not None:
        moe = spec.moe
        routed = rows * moe.experts_per_token * moe.d_ff_expert
        found.append(_activation("layers.moe", spec, routed, calls=spec.n_moe_layers))
        n_shared = spec.n_moe_layers if moe.d_ff_shared else 0
        found.append(_activation("layers.shared", spec, rows * moe.d_ff_shared, calls=n_shared))
    return [vector for vector in found if vector.calls]


def _activation(part: str, spec: ModelSpec, hidden: int, *, calls: int) -> _Vector:
    """One input and one result, or gate and up and their product; backward the gradients of each besides."""
    n_inputs = 2 if spec.is_gated else 1
    return _Vector(
        part=f"{part}.activation",
        calls=calls,
        forward=(n_inputs + 1) * hidden,
        backward=(2 * n_inputs + 1) * hidden,
    )
