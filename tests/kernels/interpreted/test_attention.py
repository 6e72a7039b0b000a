from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kernel_inputs import ROUNDED, activations, error
from llama4_local.cache.kv_cache import LayerCache
from llama4_local.ops.batch import Batch, PoolTable, Segment
from llama4_local.ops.heads import HeadTransform
from llama4_local.ops.kernels.attention_decode import attention_decode
from llama4_local.ops.kernels.attention_prefill import attention_prefill
from llama4_local.ops.kernels.heads import qkv_epilogue
from llama4_local.ops.kernels.tiles import AttentionTile, DecodeTile
from llama4_local.ops.reference.functions import ReferenceOps
from llama4sdk.errors import InvalidRequest
from long_runs import thinned

DIM = 16
PREFILL = AttentionTile(16, 16, 4, 1)
DECODE = DecodeTile(3, 16, 4, 1)
E4M3 = torch.float8_e4m3fn


def cache(pages: int, page_size: int, kv_heads: int = 2, dtype: torch.dtype = torch.bfloat16) -> LayerCache:
    def filled() -> Tensor:
        return torch.randn(pages + 1, page_size, kv_heads, DIM).to(torch.bfloat16).to(dtype)

    return LayerCache(filled(), filled(), "global")


def layout(sequences: list[tuple[int, int]], page_size: int) -> Batch:
    """A batch of (new tokens, context) pairs over shuffled pages."""
    widest = max(-(-context // page_size) for _, context in sequences)
    pages = torch.zeros(len(sequences), widest, dtype=torch.int64)
    free = iter((torch.randperm(sum(-(-c // page_size) for _, c in sequences)) + 1).tolist())
    for i, (_, context) in enumerate(sequences):
        for j in range(-(-context // page_size)):
            pages[i, j] = next(free)
    starts = torch.tensor([0, *torch.tensor([n for n, _ in sequences]).cumsum(0).tolist()])
    contexts = [context for _, context in sequences]
    table = PoolTable(torch.zeros(0, dtype=torch.int64), pages, tuple(contexts), torch.tensor(contexts))
    segments = tuple(Segment(int(starts[i]), n, c - n) for i, (n, c) in enumerate(sequences))
    empty = torch.zeros(0, dtype=torch.int64)
    return Batch(empty, empty, segments, starts, {"global": table}, empty, None)


def attend(queries: Tensor, layer: LayerCache, batch: Batch) -> Tensor:
    out = torch.empty_like(queries).flatten(1)
    attention_prefill(queries, layer, batch.starts, batch.tables["global"], PREFILL, out)
    attention_decode(queries, layer, batch.starts, batch.tables["global"], DECODE, out)
    return out


def wide(layer: LayerCache) -> LayerCache:
    return LayerCache(layer.keys.to(torch.bfloat16).double(), layer.values.to(torch.bfloat16).double(), layer.pool)


@pytest.mark.parametrize("dtype", [torch.bfloat16, E4M3], ids=["bf16", "fp8"])
@pytest.mark.parametrize(
    ("sequences", "page_size"),
    [
        ([(1, 1)], 8),
        ([(1, 8), (1, 9), (1, 47)], 8),
        ([(5, 5)], 8),
        ([(16, 16), (17, 17), (2, 33)], 16),
        ([(20, 61), (1, 50), (3, 3)], 8),
        ([(33, 40)], 32),
    ],
    ids=str,
)
def test_attention_matches_its_twin(sequences: list[tuple[int, int]], page_size: int, dtype: torch.dtype) -> None:
    layer = cache(sum(-(-c // page_size) for _, c in sequences), page_size, dtype=dtype)
    batch = layout(sequences, page_size)
    queries = activations(sum(n for n, _ in sequences), 10, DIM)  # groups of 5
    expected = ReferenceOps().attention(queries.double(), wide(layer), batch)
    assert error(attend(queries, layer, batch), expected) < 1.5 * ROUNDED  # probabilities are rounded as well


@pytest.mark.parametrize("dtype", [torch.bfloat16, E4M3], ids=["bf16", "fp8"])
@pytest.mark.parametrize("new", [1, 6])
def test_attention_of_a_sequence_is_independent_of_its_neighbours(new: int, dtype: torch.dtype) -> None:
    layer = cache(24, 8, dtype=dtype)
    crowd = layout([(4, 30), (new, 37), (1, 61), (1, 3)], 8)
    queries = activations(4 + new + 2, 10, DIM)
    table = crowd.tables["global"]
    own = PoolTable(table.slots, table.pages[1:2, :5].contiguous(), (37,), table.context_lengths[1:2])
    starts = torch.tensor([0, new])
    segments = (Segment(0, new, 37 - new),)
    alone = Batch(crowd.token_ids, crowd.positions, segments, starts, {"global": own}, crowd.image_rows, None)
    rows = slice(4, 4 + new)
    assert torch.equal(attend(queries, layer, crowd)[rows], attend(queries[rows].contiguous(), layer, alone))


@pytest.mark.parametrize("new", [1, 2])
def test_attention_reads_all_numbers_of_e4m3_exactly(new: int) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(E4M3)
    batch = layout([(new, new)] * 8, 8)
    layer = cache(8, 8, dtype=E4M3)
    pages = batch.tables["global"].pages[:, 0]
    layer.values.view(torch.uint8)[pages, :new] = codes.view(torch.uint8).view(8, 1, 2, DIM)
    attended = attend(activations(8 * new, 10, DIM), layer, batch).view(8, new, 2, 5, DIM)
    expected = codes.to(torch.bfloat16).view(8, 1, 2, 1, DIM).expand_as(attended)
    numbers = expected.isfinite()  # the interpreter has no NaN in e4m3
    assert numbers.sum() == 254 * 5 * new
    assert torch.equal(attended[numbers], expected[numbers])


@pytest.mark.filterwarnings("ignore:overflow")
def test_queries_beyond_fp16_attend_as_its_largest_numbers_do() -> None:
    layer, batch = cache(3, 8, dtype=E4M3), layout([(1, 20)], 8)
    queries = activations(1, 10, DIM) * 1e6
    largest = queries.float().clamp(-65504, 65504).to(torch.bfloat16)
    assert torch.equal(attend(queries, layer, batch), attend(largest, layer, batch))
    assert attend(queries, layer, batch).isfinite().all()


def test_attention_never_reads_keys_beyond_the_context() -> None:
    layer, batch = cache(12, 8), layout([(1, 13), (5, 21)], 8)
    queries = activations(6, 10, DIM)
    before = attend(queries, layer, batch)
    pages = batch.tables["global"].pages
    for tensor in (layer.keys, layer.values):
        tensor[0] = float("nan")  # the null page
        tensor[pages[0, 1], 5:] = float("nan")
        tensor[pages[1, 2], 5:] = float("nan")
    assert torch.equal(before, attend(queries, layer, batch))


def test_attention_ignores_later_tokens_of_the_same_step() -> None:
    layer, batch = cache(4, 8), layout([(9, 20)], 8)
    queries = activations(9, 10, DIM)
    before = attend(queries, layer, batch)
    place = batch.tables["global"].pages[0, 19 // 8], 19 % 8
    layer.keys[place], layer.values[place] = 3.0, -3.0
    after = attend(queries, layer, batch)
    assert torch.equal(before[:8], after[:8])
    assert not torch.equal(before[8], after[8])


def test_attention_with_padded_query_groups_matches_its_twin() -> None:
    layer, batch = cache(5, 8, kv_heads=1), layout([(1, 20), (7, 9)], 8)
    queries = activations(8, 5, DIM)
    expected = ReferenceOps().attention(queries.double(), wide(layer), batch)
    assert error(attend(queries, layer, batch), expected) < 1.5 * ROUNDED


def plan(tokens: int, *, rope: bool, norm: bool, scale: bool, heads: int = 10, kv_heads: int = 2) -> HeadTransform:
    angles = torch.rand(tokens, DIM // 2) * math.tau
    return HeadTransform(
        heads,
        kv_heads,
        DIM,
        torch.stack([angles.cos(), angles.sin()], -1) if rope else None,
        1e-5 if norm else None,
        1 + torch.rand(tokens) if scale else None,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, E4M3], ids=["bf16", "fp8"])
@pytest.mark.parametrize(
    ("rope", "norm", "scale"), [(True, True, False), (True, False, False), (False, False, True), (False, False, False)]
)
@pytest.mark.parametrize("parts", [1, 3])
def test_qkv_epilogue_matches_its_twin(parts: int, rope: bool, norm: bool, scale: bool, dtype: torch.dtype) -> None:
    own, other = cache(3, 8, dtype=dtype), cache(3, 8)
    head_plan = plan(5, rope=rope, norm=norm, scale=scale)
    slots = torch.tensor([8, 31, 17, 9, 24])
    split = torch.randn(parts, 5, 14 * DIM)
    qkv = split if parts > 1 else split.to(torch.bfloat16)
    queries = qkv_epilogue(qkv if parts > 1 else qkv[0], head_plan, own, slots)
    exact = LayerCache(other.keys.double(), other.values.double(), "global")
    expected = ReferenceOps().qkv_epilogue(qkv.float().sum(0), head_plan, exact, slots)
    assert error(queries, expected) < ROUNDED
    limit = ROUNDED if dtype == torch.bfloat16 else 0.04  # three bits of mantissa
    for got, exact_values in ((own.keys, exact.keys), (own.values, exact.values)):
        assert error(got.flatten(0, 1).float()[slots], exact_values.flatten(0, 1)[slots]) < limit


def test_qkv_epilogue_writes_the_cache_at_its_slots_only() -> None:
    layer = cache(3, 8)
    keys, values = layer.keys.clone(), layer.values.clone()
    slots = torch.tensor([9, 30])
    qkv_epilogue(activations(2, 14 * DIM), plan(2, rope=True, norm=True, scale=False), layer, slots)
    for now, before in ((layer.keys, keys), (layer.values, values)):
        changed = (now != before).flatten(0, 1).flatten(1).any(1)
        assert changed.nonzero().flatten().tolist() == [9, 30]


def test_qkv_epilogue_clamps_values_beyond_e4m3() -> None:
    layer = cache(1, 8, dtype=E4M3)
    qkv = torch.full((1, 14 * DIM), -1000.0).to(torch.bfloat16)
    qkv_epilogue(qkv, plan(1, rope=False, norm=False, scale=False), layer, torch.tensor([8]))
    assert (layer.keys[1, 0].float() == -448).all()
    assert (layer.values[1, 0].float() == -448).all()


def test_qkv_epilogue_refuses_columns_that_do_not_make_the_heads() -> None:
    with pytest.raises(InvalidRequest, match="heads"):
        qkv_epilogue(
            activations(1, 13 * DIM), plan(1, rope=False, norm=False, scale=False), cache(1, 8), torch.tensor([8])
        )


@pytest.mark.parametrize(("least", "splits"), thinned([(a, b) for a in (1, 2, 5) for b in (1, 3, 8)], 4))
def test_decode_attention_of_splits_with_several_blocks_each(least: int, splits: int) -> None:
    contexts = [1, 16, 17, 95, 96, 160]
    layer = cache(sum(-(-context // 32) for context in contexts), 32)
    batch = layout([(1, context) for context in contexts], 32)
    table = batch.tables["global"]
    for pages, context in zip(table.pages, contexts, strict=True):
        pages[-(-context // 32) :] = 1 << 40  # entries behind a sequence's pages are never used
    queries = activations(len(contexts), 4, DIM)
    out = torch.full((len(contexts), 4 * DIM), math.nan, dtype=torch.bfloat16)

    attention_decode(queries, layer, batch.starts, table, DecodeTile(splits, 16, 4, 1, least), out)

    clean = layout([(1, context) for context in contexts], 32)
    clean.tables["global"].pages.copy_(table.pages.where(table.pages < 1 << 40, 0))
    expected = ReferenceOps().attention(queries.double(), wide(layer), clean)
    assert error(out, expected) < ROUNDED
