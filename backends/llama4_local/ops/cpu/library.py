"""The compiled kernels as functions of tensors."""

from __future__ import annotations

import struct
from functools import cache
from typing import TYPE_CHECKING

import torch

from llama4_local.config.invariant import BrokenInvariant
from llama4_local.ops.cpu import attention, experts, linear, norms, packed
from llama4_local.ops.cpu.dots import dot_functions
from llama4_local.ops.cpu.machine import Machine, UnavailableError, compiled
from llama4_local.ops.cpu.numbers import WIDTH
from llama4_local.weights.quantized import Fp8Matrix, Int4Matrix, parts_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llama4_local.cache.kv_cache import LayerCache
    from llama4_local.ops.cpu.ir import Function
    from llama4_local.ops.cpu.kernel import Kernel
    from llama4_local.ops.heads import HeadTransform
    from llama4_local.weights.quantized import Matrix, Packed

_DTYPES = (torch.float32, torch.bfloat16)
_ALONE = 1 << 16  # numbers, or products, below which waking threads takes longer than what they save


@cache
def machine(dtype: torch.dtype) -> Machine | None:
    """Return the kernel of products for a dtype, compiled once for the process; None where it cannot run."""
    if dtype not in _DTYPES:
        return None
    narrow = dtype == torch.bfloat16
    functions = *dot_functions(narrow=narrow), linear.multiply_function(narrow=narrow, adds=False)
    return _compiled(functions, (linear.linear(narrow=narrow),))


@cache
def layer_machine(dtype: torch.dtype) -> Machine | None:
    """Return the other kernels of a layer: apart, since the forms of products are chosen without them."""
    if machine(dtype) is None:
        return None
    narrow = dtype == torch.bfloat16
    functions = (
        *dot_functions(narrow=narrow),
        linear.multiply_function(narrow=narrow, adds=False),
        linear.multiply_function(narrow=narrow, adds=True),
        experts.gated_function(narrow=narrow),
        experts.gate_function(narrow=narrow),
        attention.attend_function(narrow=narrow),
    )
    kernels = (
        experts.mlp(narrow=narrow),
        experts.mixture(narrow=narrow),
        norms.norm(narrow=narrow, adds=False),
        norms.norm(narrow=narrow, adds=True),
        norms.epilogue(narrow=narrow),
        attention.attention(narrow=narrow),
    )
    return _compiled(functions, kernels)


@cache
def packed_machine(dtype: torch.dtype) -> Machine | None:
    """Return the kernels of products with packed matrices, for activations of a dtype."""
    if machine(dtype) is None:
        return None
    narrow = dtype == torch.bfloat16
    kernels = packed.int4_linear(narrow=narrow), packed.e4m3_linear(narrow=narrow)
    return _compiled(packed.packed_functions(narrow=narrow), kernels)


def _compiled(functions: Sequence[Function], kernels: Sequence[Kernel]) -> Machine | None:
    texts = [*(each.text(internal=True) for each in functions), *(each.text() for each in kernels)]
    try:
        return compiled(texts, [each.name for each in kernels])
    except UnavailableError:
        return None


def takes(x: Tensor, *matrices: Tensor) -> bool:
    """Return whether the kernels multiply rows x with matrices [out, in], and can run here.

    Gradients are not taken through them.
    """
    dtype = x.dtype
    if torch.is_grad_enabled() or not x.is_contiguous() or not x.shape[0] or machine(dtype) is None:
        return False
    return all(
        each.dtype == dtype and each.shape[-2] >= linear.LEAST_OUTPUTS and each.is_contiguous() for each in matrices
    )


def multiply(x: Tensor, weight: Tensor) -> Tensor:
    """Return x [rows, in] times the transpose of `weight` [out, in], of tensors that `takes` is true for."""
    out = x.new_empty((x.shape[0], weight.shape[0]))
    _run(x, "linear", out, x, weight, x.shape[0], *weight.shape)
    return out


def takes_packed(x: Tensor, weight: Matrix) -> bool:
    """Return whether `multiply_packed` takes rows x and a packed matrix [out, in]."""
    outputs, inputs = weight.shape[-2:]
    if outputs < linear.LEAST_OUTPUTS or inputs % WIDTH or not takes(x):
        return False
    if isinstance(weight, Int4Matrix):
        if weight.order is not None or parts_of(weight.group) != packed.PARTS or weight.scales.dtype != torch.bfloat16:
            return False
        return weight.packed.is_contiguous() and weight.scales.is_contiguous()
    return isinstance(weight, Fp8Matrix) and weight.values.is_contiguous() and weight.scales.is_contiguous()


def multiply_packed(x: Tensor, weight: Packed) -> Tensor:
    """Return x [rows, in] times the transpose of a matrix that `takes_packed` is true for, activations unrounded."""
    outputs, inputs = weight.shape
    out, sizes = x.new_empty((x.shape[0], outputs)), (x.shape[0], outputs, inputs)
    if isinstance(weight, Int4Matrix):
        _run(x, "int4_linear", out, x, weight.packed, weight.scales, *sizes, weight.group)
    else:
        _run(x, "e4m3_linear", out, x, weight.values, weight.scales, *sizes)
    return out


def mlp(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Return down(silu(gate(x)) · up(x)) of tensors that `takes` is true for."""
    (rows, hidden), inner = x.shape, gate_up.shape[0] // 2
    out, between = torch.empty_like(x), x.new_empty((rows, inner))
    _run(x, "mlp", out, x, gate_up, down, between, rows, hidden, inner)
    return out


def mixture(
    x: Tensor, scores: Tensor, gate_up: Tensor, down: Tensor, shared_gate_up: Tensor, shared_down: Tensor
) -> Tensor:
    """Return each row's expert of x · sigmoid(score) and the shared expert, of tensors that `takes` is true for.

    Args:
        x: [rows, hidden], at most `experts.MOST_ROWS`.
        scores: [rows, experts].
        gate_up: [experts, 2·inner, hidden].
        down: [experts, hidden, inner].
        shared_gate_up: [2·shared inner, hidden].
        shared_down: [hidden, shared inner].
    """
    (rows, hidden), inner, shared = x.shape, gate_up.shape[1] // 2, shared_gate_up.shape[0] // 2
    out = torch.empty_like(x)
    between = x.new_empty(rows * (2 * hidden + inner + shared)).split(
        [rows * size for size in (hidden, hidden, inner, shared)]
    )
    matrices = gate_up, down, shared_gate_up, shared_down
    _run(x, "mixture", out, x, scores, *matrices, *between, rows, hidden, inner, shared, len(gate_up))
    return out


def transform_heads(qkv: Tensor, plan: HeadTransform, layer: LayerCache, slots: Tensor) -> Tensor:
    """Return `Ops.qkv_epilogue` where `transforms` is true."""
    rows = qkv.shape[0]
    queries = qkv.new_empty((rows, plan.heads, plan.head_dim))
    sizes = rows, plan.heads, plan.kv_heads, plan.head_dim
    norm = (0, 0) if plan.norm_eps is None else (1, _bits(plan.norm_eps))
    per_row = plan.rotation, plan.query_scale, slots
    _run(qkv, "epilogue", queries, layer.keys, layer.values, qkv, *per_row, *sizes, *norm, alone=qkv.numel() < _ALONE)
    return queries


def transforms(qkv: Tensor, plan: HeadTransform, layer: LayerCache) -> bool:
    """Return whether `transform_heads` takes heads, and their cache."""
    cached = layer.keys.dtype == qkv.dtype and layer.keys.is_contiguous() and layer.values.is_contiguous()
    per_row = (each for each in (plan.rotation, plan.query_scale) if each is not None)
    fits = plan.head_dim % WIDTH == 0 and plan.head_dim <= norms.MOST_HEAD_DIM
    return (
        cached and fits and takes(qkv) and all(each.is_contiguous() and each.dtype == torch.float32 for each in per_row)
    )


def attend(queries: Tensor, layer: LayerCache, pages: Tensor, lengths: Tensor, longest: int) -> Tensor:
    """Return attention of one query row of each sequence, [rows, heads·head_dim], where `attends` is true.

    Args:
        queries: [rows, heads, head_dim].
        layer: The cache.
        pages: [rows, widest], int64.
        lengths: [rows], int64: the keys of each.
        longest: The most of them.
    """
    rows, heads, head_dim = queries.shape
    kv_heads, parts = layer.keys.shape[2], -(-longest // attention.SPLIT)
    out = queries.new_empty((rows, heads * head_dim))
    room = queries.new_empty(rows * heads * parts * (head_dim + attention.BESIDE), dtype=torch.float32)
    sizes = rows, kv_heads, heads // kv_heads, head_dim, layer.keys.shape[1], pages.shape[1], parts
    factor = _bits(head_dim**-0.5)
    alone = longest * queries.numel() < _ALONE
    arrays = out, queries, layer.keys, layer.values, pages, lengths, room
    _run(queries, "attention", *arrays, *sizes, factor, alone=alone)
    return out


def attends(queries: Tensor, layer: LayerCache) -> bool:
    """Return whether `attend` takes queries, and their cache."""
    cached = layer.keys.dtype == queries.dtype and layer.keys.is_contiguous() and layer.values.is_contiguous()
    group = queries.shape[1] // layer.keys.shape[2]
    fits = queries.shape[2] % attention.STRIP == 0 and queries.shape[2] <= norms.MOST_HEAD_DIM
    return cached and fits and group <= attention.MOST_GROUP and takes(queries)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return `Ops.rms_norm` of rows that `norms_rows` is true for."""
    out = torch.empty_like(x)
    _run(x, "norm", out, x, weight, *x.shape, _bits(eps), alone=x.numel() < _ALONE)
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return `Ops.add_rms_norm` of rows that `norms_rows` is true for."""
    out, total = torch.empty_like(x), torch.empty_like(x)
    _run(x, "add_norm", out, x, weight, residual, total, *x.shape, _bits(eps), alone=x.numel() < _ALONE)
    return out, total


def norms_rows(x: Tensor, weight: Tensor) -> bool:
    """Return whether `rms_norm` takes rows."""
    return takes(x) and weight.dtype == x.dtype and x.shape[-1] % WIDTH == 0 and weight.is_contiguous()


def _run(x: Tensor, name: str, *arguments: Tensor | int | None, alone: bool = False) -> None:
    of = {"linear": machine, "int4_linear": packed_machine, "e4m3_linear": packed_machine}.get(name, layer_machine)
    here = of(x.dtype)
    if here is None:
        raise BrokenInvariant("a kernel was asked for that `takes` was false for")
    places = [each if isinstance(each, int) else 0 if each is None else each.data_ptr() for each in arguments]
    here.run(name, *places, alone=alone)


def _bits(value: float) -> int:
    """Return a number in fp32 as the whole number of the same bits."""
    return int.from_bytes(struct.pack("<f", value), "little")
