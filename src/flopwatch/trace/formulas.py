"""Matmul FLOPs of one operator call, exactly: torch's own formulas, and ours where torch counts nothing or wrong.

A formula takes the operator's arguments as they are and its result, and gives Work. Every multiply-add is 2 FLOPs.
The table of a trace is a copy: torch's registry is read and never written, a user's formulas go into the copy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Final, NamedTuple

import torch
from torch.utils.flop_counter import flop_registry, shape_wrapper

from flopwatch.errors import InputError
from flopwatch.trace.storages import stored_elements

aten = torch.ops.aten


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Matmul FLOPs of one call: `flops` that the task needs, `in_kernel_flops` that a fused kernel does again."""

    flops: int
    in_kernel_flops: int = 0


class Call(NamedTuple):
    """One call of an operator: its arguments as they are, and its result."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    out: Any


Formula = Callable[[Call], "Work | None"]
"""A call's Work; None where the call is no matmul after all. May raise ValueDependentError."""


def _matmul(args: Sequence[Any], where: int = 0) -> Work:
    left, right = args[where], args[where + 1]  # [..., M, K] @ [..., K, N]
    return Work(flops=2 * left.numel() * right.shape[-1])


def _mm(call: Call) -> Work | None:
    return _sparse_mm(call.args[0], call.args[1]) or _matmul(call.args)


def _addmm(call: Call) -> Work | None:
    return _sparse_mm(call.args[1], call.args[2]) or _matmul(call.args, where=1)


def _bmm(call: Call) -> Work | None:
    return _sparse_mm(call.args[0], call.args[1]) or _matmul(call.args)


def _sparse_mm(left: torch.Tensor, right: torch.Tensor) -> Work | None:
    """Each stored element of a sparse side meets one row or column of a dense other side; None when both are dense."""
    if left.layout is torch.strided and right.layout is torch.strided:
        return None
    if right.layout is torch.strided:
        return Work(flops=2 * stored_elements(left) * right.shape[-1])
    if left.layout is torch.strided:
        return Work(flops=2 * stored_elements(right) * left.shape[-2])
    raise ValueDependentError("the work of sparse @ sparse depends on where the elements lie")


class ValueDependentError(Exception):
    """The work of a call depends on values that no formula sees: the call is listed as uncounted."""


def _sparse_addmm(call: Call) -> Work | None:
    return _sparse_mm(call.args[1], call.args[2])


def _mv(call: Call) -> Work:
    return Work(flops=2 * stored_elements(call.args[0]))  # [M, K] @ [K]


def _addmv(call: Call) -> Work:
    return Work(flops=2 * stored_elements(call.args[1]))


def _addbmm(call: Call) -> Work:
    return _matmul(call.args, where=1)  # the sum over the batch is part of the multiply-adds


def _rows_by_result(call: Call) -> Work:
    """[R, K] by a packed weight of N rows: the result [R, N] tells N, whatever the packing."""
    return Work(flops=2 * call.args[0].numel() * call.out.shape[-1])


def _linear(call: Call) -> Work:
    x, weight = call.args[0], call.args[1]
    if weight.layout is not torch.strided:  # each stored element meets every row of x
        return Work(flops=2 * x.numel() // max(1, x.shape[-1]) * stored_elements(weight))
    return Work(flops=2 * x.numel() * (weight.shape[0] if weight.dim() == 2 else 1))  # weight [N, K], or [K]


def _linear_backward(call: Call) -> Work:
    # (input, grad_output, weight, output_mask): one matmul for the input, one for the weight
    return Work(flops=2 * call.args[0].numel() * call.args[1].shape[-1] * sum(call.args[3][:2]))


def _grouped_mm(call: Call) -> Work:
    """Every row (or column) passes exactly one of the matrices; where both are 2-D the groups cut the sum."""
    left, right = call.args[0], call.args[1]
    if left.dim() == 3 and right.dim() == 2:  # [G, M, K] @ [K, S] -> [M, S]
        return Work(flops=2 * left.shape[1] * left.shape[2] * right.shape[1])
    return Work(flops=2 * left.numel() * right.shape[-1])  # [S, K] @ [G, K, N], [M, S] @ [S, N], or plain batches


def _trilinear(call: Call) -> Work:
    """Two contractions, as torch does them: first with second, summed where the third is missing, then the third."""
    tensors, expands, summed = call.args[:3], call.args[3:6], set(call.args[6])
    n_dims = tensors[0].dim() + len(expands[0])
    sizes = [_expanded_sizes(tensor, expand, n_dims) for tensor, expand in zip(tensors, expands, strict=True)]
    first, second, third = sizes
    both = [max(a, b) for a, b in zip(first, second, strict=True)]
    left = [1 if dim in summed and third[dim] == 1 else size for dim, size in enumerate(both)]
    whole = [max(a, b) for a, b in zip(left, third, strict=True)]
    return Work(flops=2 * prod(both) + 2 * prod(whole))


def _expanded_sizes(tensor: torch.Tensor, expand: Sequence[int], n_dims: int) -> list[int]:
    sizes = iter(tensor.shape)
    return [1 if dim in expand else next(sizes) for dim in range(n_dims)]


def _euclidean_dist(call: Call) -> Work:
    left, right = call.args[0], call.args[1]  # |a|^2 - 2ab + |b|^2 as [P, M + 2] @ [M + 2, R]
    n_pairs = left.numel() // max(1, left.shape[-1]) * right.shape[-2]
    return Work(flops=2 * n_pairs * (left.shape[-1] + 2))


def _convolution(call: Call) -> Work:
    x, weight, is_transposed = call.args[0], call.args[1], bool(call.args[6]) if len(call.args) > 6 else False
    positions = (x if is_transposed else call.out).shape[2:]
    return Work(flops=2 * x.shape[0] * prod(positions) * weight.numel())  # groups are in the weight: [O, I/g, ...]


def _plain_convolution(call: Call) -> Work:
    return Work(flops=2 * call.args[0].shape[0] * prod(call.out.shape[2:]) * call.args[1].numel())


def _convolution_backward(call: Call) -> Work:
    """As many FLOPs as forward for each of input and weight that needs a gradient: torch's own ignores groups."""
    grad, x, weight, is_transposed, mask = call.args[0], call.args[1], call.args[2], bool(call.args[7]), call.args[10]
    positions = (x if is_transposed else grad).shape[2:]
    return Work(flops=2 * x.shape[0] * prod(positions) * weight.numel() * sum(mask[:2]))


def _mkldnn_rnn(call: Call) -> Work:
    """One layer and direction of an LSTM on a CPU: input [T, B, I] by [4H, I], and T times [B, H] by [4H, H]."""
    x, w_input, w_hidden = call.args[0], call.args[1], call.args[2]
    n_steps = x.numel() // x.shape[-1]
    return Work(flops=2 * n_steps * (w_input.numel() + w_hidden.numel()))


def _mkldnn_rnn_backward(call: Call) -> Work:
    return Work(flops=2 * _mkldnn_rnn(call).flops)


def _packed_rnn(call: Call) -> Work:
    n_steps = call.args[0].numel() // call.args[0].shape[-1]
    return Work(flops=2 * n_steps * sum(weight.numel() for weight in call.args[1] if weight.dim() == 2))


def _packed_rnn_backward(call: Call) -> Work:
    return Work(flops=2 * _packed_rnn(call).flops)


def _native_attention(call: Call) -> Work:
    """The fused path of an evaluated nn.MultiheadAttention: (query, key, value, width, heads, ...)."""
    query, key, value, width = call.args[0], call.args[1], call.args[2], call.args[3]
    batch, n_queries, n_keys = query.shape[0], query.shape[1], key.shape[1]
    projections = 2 * (query.numel() + key.numel() + value.numel() + query.numel()) * width
    scores = 2 * batch * n_queries * n_keys * width  # [B,H,Q,E] @ [B,H,E,K]; H E = width
    values = 2 * batch * n_queries * n_keys * width
    return Work(flops=projections + scores + values)


def _encoder_layer(call: Call) -> Work:
    x, width, ffn_up = call.args[0], call.args[1], call.args[14]
    attention = _native_attention(Call((x, x, x, width), {}, call.out)).flops
    return Work(flops=attention + 2 * 2 * x.numel() * ffn_up.shape[0])  # up and down


def attention_work(query: Sequence[int], key: Sequence[int], value: Sequence[int]) -> Work:
    """Attention forward over all scores: queries [..., Q, E], keys [..., K, E], values [..., K, V]."""
    n_scores = prod(query[:-1]) * key[-2]
    return Work(flops=2 * n_scores * query[-1] + 2 * n_scores * value[-1])


def attention_backward_work(query: Sequence[int], key: Sequence[int], value: Sequence[int]) -> Work:
    """The four matmuls that backward needs, and the scores that a fused kernel computes again."""
    n_scores = prod(query[:-1]) * key[-2]
    return Work(
        flops=4 * n_scores * query[-1] + 4 * n_scores * value[-1],
        in_kernel_flops=2 * n_scores * query[-1],
    )


def _attention(call: Call) -> Work:
    return attention_work(call.args[0].shape, call.args[1].shape, call.args[2].shape)


def _attention_backward(call: Call) -> Work:
    return attention_backward_work(call.args[1].shape, call.args[2].shape, call.args[3].shape)


def _flex_attention_backward(call: Call) -> Work:
    return attention_backward_work(call.args[0].shape, call.args[1].shape, call.args[2].shape)


def _of_any_dtype(formula: Formula) -> Formula:
    """A multiply-add of complex numbers is four of real ones: 8 FLOPs."""

    def of_any_dtype(call: Call) -> Work | None:
        work = formula(call)
        if work is None or not any(isinstance(arg, torch.Tensor) and arg.is_complex() for arg in call.args):
            return work
        return Work(flops=4 * work.flops, in_kernel_flops=4 * work.in_kernel_flops)

    return of_any_dtype


def _from_torch(function: Callable[..., Any]) -> Formula:
    def formula(call: Call) -> Work:
        return Work(flops=int(function(*call.args, **call.kwargs, out_val=call.out)))

    return formula


def _fifth_in_kernel(function: Callable[..., Any]) -> Formula:
    """torch counts the five matmuls of a fused backward; one of them, of equal size, computes the scores again."""

    def formula(call: Call) -> Work:
        whole = int(function(*call.args, **call.kwargs, out_val=call.out))
        return Work(flops=whole - whole // 5, in_kernel_flops=whole // 5)

    return formula


_OURS: Final[dict[str, Formula]] = {
    "mm": _mm,
    "addmm": _addmm,
    "addmm_": _addmm,
    "_addmm_activation": _addmm,
    "bmm": _bmm,
    "baddbmm": _addbmm,
    "baddbmm_": _addbmm,
    "addbmm": _addbmm,
    "addbmm_": _addbmm,
    "mv": _mv,
    "addmv": _addmv,
    "addmv_": _addmv,
    "dot": _mv,
    "vdot": _mv,
    "linear": _linear,
    "linear_backward": _linear_backward,
    "mkldnn_linear": _linear,
    "_trilinear": _trilinear,
    "_euclidean_dist": _euclidean_dist,
    "_sparse_addmm": _sparse_addmm,
    "_int_mm": _mm,
    "_scaled_mm": _mm,
    "_scaled_mm_v2": _mm,
    "_weight_int8pack_mm": _rows_by_result,
    "_weight_int4pack_mm": _rows_by_result,
    "_weight_int4pack_mm_for_cpu": _rows_by_result,
    "_weight_int4pack_mm_with_scales_and_zeros": _rows_by_result,
    "_dyn_quant_matmul_4bit": _rows_by_result,
    "_mixed_dtypes_linear": _rows_by_result,
    "_grouped_mm": _grouped_mm,
    "_scaled_grouped_mm": _grouped_mm,
    "_scaled_grouped_mm_v2": _grouped_mm,
    "convolution": _convolution,
    "_convolution": _convolution,
    "convolution_overrideable": _convolution,
    "cudnn_convolution": _plain_convolution,
    "miopen_convolution": _plain_convolution,
    "mkldnn_convolution": _plain_convolution,
    "cudnn_convolution_relu": _plain_convolution,
    "cudnn_convolution_add_relu": _plain_convolution,
    "miopen_convolution_relu": _plain_convolution,
    "_nnpack_spatial_convolution": _plain_convolution,
    "slow_conv_dilated2d": _plain_convolution,
    "slow_conv_dilated3d": _plain_convolution,
    "_slow_conv2d_forward": _plain_convolution,
    "slow_conv3d_forward": _plain_convolution,
    "_conv_depthwise2d": _plain_convolution,
    "conv_depthwise3d": _plain_convolution,
    "convolution_backward": _convolution_backward,
    "mkldnn_rnn_layer": _mkldnn_rnn,
    "mkldnn_rnn_layer_backward": _mkldnn_rnn_backward,
    "_cudnn_rnn": _packed_rnn,
    "_cudnn_rnn_backward": _packed_rnn_backward,
    "miopen_rnn": _packed_rnn,
    "miopen_rnn_backward": _packed_rnn_backward,
    "_native_multi_head_attention": _native_attention,
    "_transformer_encoder_layer_fwd": _encoder_layer,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_backward": _attention_backward,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_efficient_attention_backward": _attention_backward,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_cudnn_attention_backward": _attention_backward,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
    "_scaled_dot_product_fused_attention_overrideable_backward": _attention_backward,
    "_scaled_dot_product_attention_math_for_mps": _attention,
}
_QUANTIZED: Final = ("linear_dynamic", "linear_relu_dynamic", "linear", "linear_relu", "linear_dynamic_fp16")
_VARLEN_BACKWARD: Final = ("_flash_attention_backward", "_efficient_attention_backward")


def formula_table(formulas: Mapping[Any, Callable[..., Any]] | None = None) -> dict[Any, Formula]:
    """Operator -> formula: torch's (copied), ours over them, the user's over both.

    A user's formula is written as torch's `register_flop_formula` wants it: tensors arrive as their shapes, the
    result's as `out_shape`; one marked with `_get_raw` gets tensors and `out_val`. It gives a whole number.
    """
    table: dict[Any, Formula] = {target: _from_torch(function) for target, function in flop_registry.items()}
    for name, formula in _OURS.items():
        if hasattr(aten, name):  # a newer torch may lack some of them, an older one others
            table[getattr(aten, name)] = formula
    for name in _QUANTIZED:
        table[getattr(torch.ops.quantized, name)] = _rows_by_result
    for name in _VARLEN_BACKWARD:
        table[getattr(aten, name)] = _fifth_in_kernel(flop_registry[getattr(aten, name)])
    flex = torch.ops.higher_order
    table[flex.flex_attention] = _attention
    table[flex.flex_attention_backward] = _flex_attention_backward
    table = {target: _of_any_dtype(formula) for target, formula in table.items()}
    for target, function in (formulas or {}).items():
        table[_checked_target(target)] = _from_user(target, function)
    return table


def _checked_target(target: Any) -> Any:
    if isinstance(target, torch.library.CustomOpDef):  # type: ignore[attr-defined]
        return target._opoverload.overloadpacket
    known = (torch._ops.OpOverloadPacket, torch._ops.OpOverload, torch._ops.HigherOrderOperator)
    if isinstance(target, known):
        return target
    raise InputError(
        f"{target!r} is no operator that a formula can belong to",
        hint="give torch.ops.library.name, one overload of it, or what torch.library.custom_op returned",
    )


def _from_user(target: Any, function: Callable[..., Any]) -> Formula:
    if not callable(function):
        raise InputError(f"the formula of {target} is {function!r}", hint="give a function of shapes and out_shape")
    wrapped = function if getattr(function, "_get_raw", False) else shape_wrapper(function)

    def formula(call: Call) -> Work:
        flops = wrapped(*call.args, **call.kwargs, out_val=call.out)
        if not isinstance(flops, int) or isinstance(flops, bool) or flops < 0:
            raise InputError(f"the formula of {target} gave {flops!r}", hint="FLOPs are a whole number from 0")
        return Work(flops=flops)

    return formula
