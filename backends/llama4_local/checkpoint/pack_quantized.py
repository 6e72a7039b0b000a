"""Matrices in compressed-tensors' form `pack-quantized`, as `Int4Matrix`, integer for integer.

A matrix X [out, in] lies in `X_packed` (int32, eight integers a word, the lowest first, each plus 8), `X_scale`
[out, groups], `X_shape`, and with activation order `X_g_idx` [in], the group of each input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llama4_local.config.formats import INT4_GROUPS
from llama4_local.weights.quantize import interleaved
from llama4_local.weights.quantized import Int4Matrix, parts_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from llama4_local.checkpoint.headers import StoredTensor
    from llama4_local.checkpoint.reader import TensorReader

_PARTS = ("packed", "scale", "shape", "g_idx")
_IN_A_WORD = 8
_ROWS = 256  # that are unpacked at a time, since their integers take several times their room
_SCALES = ("F32", "F16", "BF16")


def is_int4(tensors: Mapping[str, StoredTensor], name: str) -> bool:
    """Whether the matrix of this name is packed."""
    return f"{name}_packed" in tensors


def names_of(name: str) -> list[str]:
    """Return the names under which a packed matrix may be stored."""
    return [f"{name}_{part}" for part in _PARTS]


def int4_problems(tensors: Mapping[str, StoredTensor], name: str, shape: tuple[int, ...]) -> list[str]:
    """Return what is wrong with a packed matrix, one sentence each."""
    packed, scale, order = (tensors.get(f"{name}_{part}") for part in ("packed", "scale", "g_idx"))
    if packed is None or len(shape) != 2:
        return [f"{name} cannot be packed; only matrices are read so"]
    outputs, inputs = shape
    if scale is None:
        return [f"{name}_packed lacks scales, {name}_scale"]
    problems: list[str] = []
    if packed.dtype != "I32" or packed.shape != (outputs, -(-inputs // _IN_A_WORD)):
        problems.append(f"{packed.name} ({packed.dtype}, {packed.shape}) does not hold {shape} in 4 bits")
    if scale.dtype not in _SCALES or len(scale.shape) != 2 or not _group(inputs, scale.shape):
        problems.append(f"{scale.name} has shape {scale.shape}; groups of {', '.join(map(str, INT4_GROUPS))} are read")
    elif scale.shape[0] != outputs:
        problems.append(f"{scale.name} has shape {scale.shape}, which does not scale the outputs of {shape}")
    if order is not None and (order.dtype not in ("I32", "I64") or order.shape != (inputs,)):
        problems.append(f"{order.name} has shape {order.shape}, not one group for each of {inputs} inputs")
    return problems


def read_int4(source: TensorReader, names: Sequence[str], device: str, scales: torch.dtype | None) -> Int4Matrix:
    """Read matrices one below the other.

    Args:
        source: Reads the tensors, and notes what is wrong with their values.
        names: Of the matrices, without `_packed`.
        device: Where they go.
        scales: Type of the scales; None for the stored one.
    """
    matrices = [_read(source, name, device) for name in names]
    if len({matrix.group for matrix in matrices}) > 1:
        source.problems.append(f"{names[0]} and {names[-1]} have groups of different sizes")
        return matrices[0]
    packed = torch.cat([matrix.packed for matrix in matrices])
    steps = torch.cat([matrix.scales for matrix in matrices], dim=-1)
    return Int4Matrix(packed, steps.to(scales or steps.dtype), *_orders(matrices))


def _orders(matrices: Sequence[Int4Matrix]) -> tuple[Tensor | None, tuple[int, ...]]:
    if all(matrix.order is None for matrix in matrices):
        return None, ()
    usual = torch.arange(matrices[0].shape[-1], dtype=torch.int32, device=matrices[0].packed.device)[None]
    orders = [usual if matrix.order is None else matrix.order for matrix in matrices]
    ends = [sum(matrix.shape[0] for matrix in matrices[: place + 1]) for place in range(len(matrices))]
    if all(torch.equal(order, orders[0]) for order in orders):
        return orders[0], (ends[-1],)
    return torch.cat(orders), tuple(ends)


def _read(source: TensorReader, name: str, device: str) -> Int4Matrix:
    words, scale = source.lend(f"{name}_packed").to(device), source.lend(f"{name}_scale").to(device)
    if f"{name}_shape" in source.tensors:
        source.skip([f"{name}_shape"])  # the words have it
    outputs, inputs = words.shape[0], _inputs(source, name)
    group = _group(inputs, tuple(scale.shape))
    if scale.shape[1] == 1:
        scale = scale.expand(outputs, inputs // group)
    order = _order(source, name, group, inputs)
    if order is None:
        return Int4Matrix(_regrouped(words, group), scale.t().contiguous())
    order = order.to(device)
    bytes_ = words.new_empty((outputs, inputs // 2), dtype=torch.uint8)
    for rows, room in zip(words.split(_ROWS), bytes_.split(_ROWS), strict=True):
        room.copy_(interleaved(unpacked(rows, inputs).index_select(1, order).unflatten(1, (-1, group))))
    return Int4Matrix(bytes_, scale.t().contiguous(), order.to(torch.int32)[None])


def _regrouped(words: Tensor, group: int) -> Tensor:
    """Return int32 words [out, words] as the bytes of `Int4Matrix`, [out, in / 2], without unpacking them."""
    parts = parts_of(group)
    bytes_ = words.contiguous().view(torch.uint8).view(-1, parts, group // parts // 2)
    quarters = bytes_.transpose(0, 1).contiguous().flatten(1)  # those of a group lie apart: [parts, bytes]
    low, high = quarters[::2], quarters[1::2]
    even = (low & 0xF).bitwise_or_(high << 4)
    odd = (low >> 4).bitwise_or_(high & 0xF0)
    return torch.stack((*even, *odd), dim=-1).view(words.shape[0], -1)


def unpacked(words: Tensor, inputs: int) -> Tensor:
    """Return the integers, each plus 8, of int32 words [out, words]: uint8 [out, in]."""
    bytes_ = words.contiguous().view(torch.uint8)
    return torch.stack((bytes_ & 0xF, bytes_ >> 4), dim=-1).flatten(1)[:, :inputs]


def _inputs(source: TensorReader, name: str) -> int:
    return source.tensors[f"{name}_packed"].shape[1] * _IN_A_WORD


def _order(source: TensorReader, name: str, group: int, inputs: int) -> Tensor | None:
    """Return the input of each column once columns are sorted by group; None where they are sorted already."""
    if f"{name}_g_idx" not in source.tensors:
        return None
    groups = source.lend(f"{name}_g_idx").long()
    usual = torch.arange(inputs) // group
    if torch.equal(groups, usual) or bool((groups < 0).all()):  # -1: the order was not written
        return None
    if not torch.equal(groups.sort().values, usual):
        source.problems.append(f"{name}_g_idx does not put {group} inputs into each group")
        return None
    return groups.argsort(stable=True)


def _group(inputs: int, scale: tuple[int, ...]) -> int:
    """Return the size of a group, 0 where it is none that is read."""
    if scale[1] == 1:  # one scale for a whole output
        return next((group for group in INT4_GROUPS if inputs % group == 0), 0)
    group = inputs // scale[1] if scale[1] and inputs % scale[1] == 0 else 0
    return group if group in INT4_GROUPS else 0
