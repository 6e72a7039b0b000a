"""Every launch that serving a published model makes, recorded without running any.

The launchers that serve are called on tensors without storage, for each weight format, cache type and number of
tokens at which the tile config changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from llama4_local.cache.kv_cache import LayerCache
from llama4_local.config.share import Share
from llama4_local.ops.batch import Batch, PoolTable, Segment
from llama4_local.ops.filters import Filters
from llama4_local.ops.heads import HeadTransform
from llama4_local.ops.kernels import sampling
from llama4_local.ops.kernels.arrivals import arrival_counters
from llama4_local.ops.kernels.functions import KernelOps
from llama4_local.ops.kernels.launch import recording
from llama4_local.ops.kernels.tile_table import TileTable
from llama4_local.ops.penalties import Penalties
from llama4_local.weights.quantized import Fp8Matrix, Int4Matrix
from llama4_local.weights.tree import MlpTree, MoeTree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from llama4_local.ops.kernels.launch import Launch
    from llama4_local.ops.kernels.tiles import Format
    from llama4_local.weights.quantized import Matrix

FORMATS: tuple[Format, ...] = ("bf16", "fp8", "int4")
TOKENS = (1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 16384)
PREFILL_FROM = 16  # no prefill of fewer tokens is recorded
PAGE = 64
GROUP = 128


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a published model that its kernels depend on.

    Args:
        name: The model's name.
        experts: Routed experts of a MoE layer; 0 without MoE layers.
        expert_size: Width of each.
        dense_size: Width of dense feed-forwards; 0 without any.
        norm: Whether queries and keys are normalised.
        nope: Whether some layers have no RoPE.
        ranks: Number of ranks of which this is one's share.
    """

    name: str
    experts: int
    expert_size: int
    dense_size: int
    norm: bool
    nope: bool
    hidden: int = 5120
    heads: int = 40
    kv_heads: int = 8
    head_dim: int = 128
    vocab: int = 202_048
    ranks: int = 1

    def share(self, ranks: int) -> Shape:
        """Return the sizes of one of so many ranks that divide the model."""
        return replace(
            self,
            name=f"{self.name}, one of {ranks} ranks",
            expert_size=self.expert_size // ranks,
            dense_size=self.dense_size // ranks,
            heads=self.heads // ranks,
            kv_heads=self.kv_heads // ranks,
            ranks=ranks,
            vocab=Share(0, ranks).vocabulary(self.vocab)[1],
        )


SHAPES = (
    Shape("Scout", 16, 8192, 0, norm=True, nope=True),
    Shape("Maverick", 128, 8192, 16384, norm=False, nope=True),
    Shape("Guard 4", 0, 0, 8192, norm=True, nope=False),
)


def serving_launches(shape: Shape) -> Iterator[Launch]:
    """Yield the launches of a model; many of them share a binary."""
    for tiles in (TileTable(), TileTable(deterministic=True)):
        ops = KernelOps(tiles, arrival_counters("meta"))
        for weight_format in FORMATS:
            for tokens in TOKENS:
                yield from matrix_launches(shape, weight_format, tokens, ops)
        for cache in (torch.bfloat16, torch.float8_e4m3fn):
            for tokens in TOKENS:
                yield from attention_launches(shape, cache, tokens, ops)
    yield from sampling_launches(shape)


def matrix_launches(shape: Shape, weight_format: Format, tokens: int, ops: KernelOps) -> list[Launch]:
    """Return one step's launches of projections, feed-forwards, norms and head."""
    x, weight = _empty(tokens, shape.hidden), _empty(shape.hidden)
    width = shape.heads * shape.head_dim
    with recording() as launches:
        ops.rms_norm(x, weight, 1e-5)
        qkv = ops.linear(x, _matrix(weight_format, width + 2 * shape.kv_heads * shape.head_dim, shape.hidden))
        for rope in (True, False) if shape.nope else (True,):
            ops.qkv_epilogue(qkv, _plan(shape, tokens, rope=rope), _cache(shape, torch.bfloat16), _longs(tokens))
        update = ops.linear(_empty(tokens, width), _matrix(weight_format, shape.hidden, width))
        ops.add_rms_norm(_total(shape, update, ops), x, weight, 1e-5)
        for feed_forward in _feed_forwards(shape, weight_format, x, ops):
            ops.add_rms_norm(_total(shape, feed_forward, ops), x, weight, 1e-5)
        # Routers, norms and heads are bf16 in every format.
        ops.linear(x, _matrix("bf16", shape.vocab, shape.hidden))
        ops.linear(x, _matrix(weight_format, shape.vocab, shape.hidden))
    return launches


def attention_launches(shape: Shape, cache: torch.dtype, tokens: int, ops: KernelOps) -> list[Launch]:
    """Return the launches of attention over one type of cache: decode, one prompt, and eight prompts."""
    layer, queries = _cache(shape, cache), _empty(tokens, shape.heads, shape.head_dim)
    qkv = _empty(tokens, (shape.heads + 2 * shape.kv_heads) * shape.head_dim)
    with recording() as launches:
        for rope in (True, False) if shape.nope else (True,):
            ops.qkv_epilogue(qkv, _plan(shape, tokens, rope=rope), layer, _longs(tokens))
        if tokens <= 256:
            ops.attention(queries, layer, _batch([1] * tokens))
        if tokens >= PREFILL_FROM:
            ops.attention(queries, layer, _batch([tokens]))
            ops.attention(queries, layer, _batch([tokens // 8] * 8))
    return launches


def sampling_launches(shape: Shape, rows: int = 64) -> list[Launch]:
    """Return the launches of sampling, with and without penalties, token masks and filters."""
    logits = _empty(rows, shape.vocab, dtype=torch.float32)
    floats, doubles = _empty(rows, dtype=torch.float32), _empty(rows, dtype=torch.float64)
    seen, counts = _empty(rows, shape.vocab, dtype=torch.bool), _empty(rows, shape.vocab, dtype=torch.int32)
    mask = _empty(rows, -(-shape.vocab // 32), dtype=torch.int32)
    with recording() as launches:
        sampling.uniforms(_longs(rows), _longs(rows))
        sampling.adjust(logits, Penalties(seen, counts, floats, floats, floats), None)
        sampling.adjust(logits, None, mask)
        for ranked in (True, False):
            sampling.draw(logits, Filters(floats, _longs(rows), doubles, floats, ranked), doubles)
    return launches


def _feed_forwards(shape: Shape, weight_format: Format, x: Tensor, ops: KernelOps) -> Iterator[Tensor]:
    if shape.dense_size:
        yield ops.mlp(x, _mlp(weight_format, shape.hidden, shape.dense_size))
    if shape.experts:
        count, size = shape.experts + 1, shape.expert_size
        gate_up = _experts(weight_format, count, 2 * size, shape.hidden)
        down = _experts(weight_format, count, shape.hidden, size)
        router = _empty(shape.experts, shape.hidden)
        yield ops.moe(x, MoeTree(router, gate_up, down, _mlp(weight_format, shape.hidden, size)))


def _total(shape: Shape, update: Tensor, ops: KernelOps) -> Tensor:
    if shape.ranks == 1:
        return update
    return ops.sum_over_ranks(update, lambda part: _empty(shape.ranks, *part.shape))


def _mlp(weight_format: Format, hidden: int, size: int) -> MlpTree[Matrix]:
    return MlpTree(_matrix(weight_format, 2 * size, hidden), _matrix(weight_format, hidden, size))


def _plan(shape: Shape, tokens: int, *, rope: bool) -> HeadTransform:
    sizes = (shape.heads, shape.kv_heads, shape.head_dim)
    if not rope:
        return HeadTransform(*sizes, query_scale=_empty(tokens, dtype=torch.float32))
    rotation = _empty(tokens, shape.head_dim // 2, 2, dtype=torch.float32)
    return HeadTransform(*sizes, rotation, 1e-5 if shape.norm else None)


def _cache(shape: Shape, dtype: torch.dtype) -> LayerCache:
    rows = _empty(1025, PAGE, shape.kv_heads, shape.head_dim, dtype=dtype)
    return LayerCache(rows, rows, "global")


def _batch(lengths: list[int]) -> Batch:
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    segments = tuple(Segment(start, length, 4096) for start, length in zip(starts, lengths, strict=True))
    table = PoolTable(_longs(sum(lengths)), _longs(len(lengths), 100), (), _longs(len(lengths)))
    return Batch(_longs(1), _longs(1), segments, _longs(len(lengths) + 1), {"global": table}, _longs(0), None)


def _matrix(weight_format: Format, *shape: int) -> Matrix:
    """Return a matrix [..., out, in] without storage."""
    if weight_format == "bf16":
        return _empty(*shape)
    if weight_format == "fp8":
        values = _empty(*shape, dtype=torch.float8_e4m3fn)
        return Fp8Matrix(values, _empty(*shape[:-1], dtype=torch.float32))
    packed = _empty(*shape[:-1], shape[-1] // 2, dtype=torch.uint8)
    return Int4Matrix(packed, _empty(*shape[:-2], shape[-1] // GROUP, shape[-2]))


def _experts(weight_format: Format, *shape: int) -> Matrix:
    return _empty(*shape).transpose(1, 2) if weight_format == "bf16" else _matrix(weight_format, *shape)


def _longs(*shape: int) -> Tensor:
    return _empty(*shape, dtype=torch.int64)


def _empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")
