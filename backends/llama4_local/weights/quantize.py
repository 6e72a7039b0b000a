"""Packs matrices into int4 or FP8.

int4: a group's scale is signed, so that its largest magnitude may become -8, the one integer that has no
positive twin; a few smaller and larger scales are tried and the one with the least squared error is kept.
FP8: each row's largest magnitude becomes 448.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor

from llama4_local.config.formats import WeightFormat, int4_group
from llama4_local.weights.quantized import E4M3_LARGEST, LEAST_SCALE, Fp8Matrix, Int4Matrix, Matrix, Packed, parts_of
from llama4_local.weights.tree import AttentionTree, LayerTree, MlpTree, MoeTree, WeightTree
from llama4sdk.errors import InvalidRequest

Pack = Callable[[Tensor], Packed]

_FACTORS = (1.0, 0.95, 0.9, 0.85, 0.8, 1.05)
# Weights worked on together: few enough for a processor's cache, and for torch to leave them to one thread. Threads
# that share work so small stand still whenever another process has one of their cores.
_CHUNK = 1 << 15
_DEVICE_CHUNK = 1 << 24  # weights worked on together elsewhere: a few times 64 MB in fp32
_WORTH_A_THREAD = 1 << 20  # weights
_TINY = 1e-30


def pack_network(weights: WeightTree[Tensor], kind: WeightFormat) -> WeightTree[Matrix]:
    """Pack the matrices of a decoder's layers; router, norms, embeddings, head and vision stay as they are.

    Args:
        weights: The network in bf16 or fp32.
        kind: `int4`, in the largest groups that divide a matrix, or `fp8`.

    Raises:
        InvalidRequest: A matrix cannot be cut into int4 groups.
    """
    pack = packer(kind)
    return replace(weights, layers=tuple(_pack_layer(layer, pack) for layer in weights.layers))


def packer(kind: WeightFormat) -> Pack:
    """Return the function that packs a matrix [..., out, in]."""
    return quantize_int4 if kind == "int4" else quantize_fp8


def stack(matrices: Iterable[Packed], count: int) -> Packed:
    """Put `count` packed matrices of one shape and format into one, [count, out, in], holding one at a time."""
    whole: Packed | None = None
    for index, matrix in enumerate(matrices):
        whole = whole or _room_for(matrix, count)
        for place, part in zip(_parts(whole), _parts(matrix), strict=True):
            place[index] = part
    if whole is None:
        raise ValueError("there is nothing to stack")
    return whole


def _room_for(matrix: Packed, count: int) -> Packed:
    values, scales, *order = (part.new_empty((count, *part.shape)) for part in _parts(matrix))
    if isinstance(matrix, Int4Matrix):
        return Int4Matrix(values, scales, order[0] if order else None, matrix.ends)
    return Fp8Matrix(values, scales, matrix.bound)


def _parts(matrix: Packed) -> tuple[Tensor, ...]:
    if not isinstance(matrix, Int4Matrix):
        return matrix.values, matrix.scales
    return (matrix.packed, matrix.scales) if matrix.order is None else (matrix.packed, matrix.scales, matrix.order)


def _pack_layer(layer: LayerTree[Tensor], pack: Pack) -> LayerTree[Matrix]:
    attention = AttentionTree(pack(layer.attention.qkv), pack(layer.attention.output))
    mlp = None if layer.mlp is None else _pack_mlp(layer.mlp, pack)
    moe = None if layer.moe is None else _pack_moe(layer.moe, pack)
    return LayerTree(layer.input_norm, attention, layer.post_norm, mlp, moe)


def _pack_mlp(mlp: MlpTree[Tensor], pack: Pack) -> MlpTree[Matrix]:
    return MlpTree(pack(mlp.gate_up), pack(mlp.down))


def _pack_moe(moe: MoeTree[Tensor], pack: Pack) -> MoeTree[Matrix]:
    gate_up, down = pack(moe.gate_up.transpose(1, 2)), pack(moe.down.transpose(1, 2))
    return MoeTree(moe.router, gate_up, down, _pack_mlp(moe.shared, pack))


def quantize_int4(weight: Tensor, group: int | None = None) -> Int4Matrix:
    """Pack a matrix into int4.

    Args:
        weight: [..., out, in], any floating type.
        group: Inputs that share a scale: 32, 64 or 128; None for the largest that divides `in`.

    Raises:
        InvalidRequest: `in` is not a multiple of the group, or of any.
    """
    *leading, size = weight.shape
    group = group or int4_group(size)
    if size % group:
        raise InvalidRequest(f"{size} inputs cannot be cut into int4 groups of {group}")
    packed = torch.empty((*leading, size // 2), dtype=torch.uint8, device=weight.device)
    scales = torch.empty((*leading, size // group), dtype=torch.bfloat16, device=weight.device)
    sources, bytes_, steps = (
        weight.reshape(-1, size).contiguous(),
        packed.view(-1, size // 2),
        scales.view(-1, size // group),
    )

    def pack(own: slice) -> None:
        bytes_[own], steps[own] = _pack_rows(sources[own].float(), group)

    _for_rows(sources, pack)
    return Int4Matrix(packed, scales.transpose(-1, -2).contiguous())


def quantize_fp8(weight: Tensor) -> Fp8Matrix:
    """Pack a matrix [..., out, in] of any floating type into e4m3, row by row."""
    *leading, size = weight.shape
    values = torch.empty(weight.shape, dtype=torch.float8_e4m3fn, device=weight.device)
    scales = torch.empty(leading, dtype=torch.float32, device=weight.device)
    sources, targets, steps = weight.reshape(-1, size).contiguous(), values.view(-1, size), scales.view(-1)

    def pack(own: slice) -> None:
        wide = sources[own].float()
        scale = (wide.abs().amax(dim=-1) / E4M3_LARGEST).clamp(min=LEAST_SCALE)
        steps[own] = scale
        targets[own] = (wide / scale[:, None]).clamp_(-E4M3_LARGEST, E4M3_LARGEST)

    _for_rows(sources, pack)
    return Fp8Matrix(values, scales)


def _for_rows(matrix: Tensor, work: Callable[[slice], None]) -> None:
    """Do something to all rows, some at a time, in as many threads as torch has on the CPU."""
    count, size = matrix.shape
    rows, threads = max(1, _CHUNK // size), torch.get_num_threads()
    if matrix.device.type != "cpu":
        rows = max(1, _DEVICE_CHUNK // size)
        for first in range(0, count, rows):
            work(slice(first, min(first + rows, count)))
        return
    share = -(-count // threads)
    shares = [range(first, min(first + share, count), rows) for first in range(0, count, share)]

    @torch.no_grad()
    def run(own: range) -> None:
        for first in own:
            work(slice(first, min(first + rows, own.stop)))

    if len(shares) == 1 or count * size < _WORTH_A_THREAD:
        for own in shares:
            run(own)
        return
    with ThreadPoolExecutor(len(shares)) as pool:
        list(pool.map(run, shares))


def _pack_rows(rows: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Return the bytes [rows, in / 2] and the scales [rows, in / group] of fp32 rows."""
    groups = rows.unflatten(-1, (-1, group))
    scales = _best_scales(groups)
    return interleaved(_integers(groups, scales).add_(8).to(torch.uint8)), scales[..., 0]


def interleaved(groups: Tensor) -> Tensor:
    """Return integers from 0 to 15, uint8 [rows, groups, group], as the bytes of `Int4Matrix`, [rows, in / 2]."""
    parts = groups.unflatten(-1, (parts_of(groups.shape[-1]), -1))
    bytes_ = parts[..., ::2, :] | (parts[..., 1::2, :] << 4)  # [rows, groups, bytes of a word, words]
    return bytes_.transpose(-1, -2).flatten(-3)


def _best_scales(groups: Tensor) -> Tensor:
    """Return the scale of each group, [..., 1], fp32 holding bf16 values: [..., group] → [..., 1]."""
    largest = groups.gather(-1, groups.abs().argmax(dim=-1, keepdim=True))
    start = largest / -8
    best = _storable(start)
    least = _error(groups, best)
    for factor in _FACTORS[1:]:
        tried = _storable(start * factor)
        error = _error(groups, tried)
        better = error < least
        best, least = torch.where(better, tried, best), torch.where(better, error, least)
    return best


def _error(groups: Tensor, scales: Tensor) -> Tensor:
    difference = _integers(groups, scales).mul_(scales).sub_(groups)
    return difference.square_().sum(dim=-1, keepdim=True)


def _integers(groups: Tensor, scales: Tensor) -> Tensor:
    return groups.mul(scales.reciprocal()).round_().clamp_(-8, 7)


def _storable(scales: Tensor) -> Tensor:
    """Return scales as bf16 holds them, never 0: a group of zeros stays zero with any scale."""
    rounded = scales.to(torch.bfloat16).float()
    return torch.where(rounded.abs() < _TINY, _TINY, rounded)
