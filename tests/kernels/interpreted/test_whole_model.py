from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kernel_inputs import error
from llama4_local.cache.kv_cache import KvCache
from llama4_local.cache.page_table import CacheShape, PageAllocators, SequencePages
from llama4_local.config.model import ModelConfig, TextConfig
from llama4_local.model.transformer import Model, forward, logits
from llama4_local.ops.batch import SequenceInput, build_batch
from llama4_local.ops.kernels.arrivals import arrival_counters
from llama4_local.ops.kernels.functions import KernelOps
from llama4_local.ops.kernels.launch import recording
from llama4_local.ops.kernels.layout import prepare
from llama4_local.ops.kernels.tile_table import VECTOR_TOKENS, TileTable
from llama4_local.ops.kernels.tiles import DecodeTile, Format, VectorTile
from llama4_local.ops.reference.quantized import QuantizedReferenceOps
from llama4_local.weights.quantize import pack_network
from llama4_local.weights.schema import random_weights
from llama4_local.weights.tree import WeightTree
from llama4sdk.errors import InvalidRequest
from long_runs import only_long, thinned

CHUNK = 8
SLOW = only_long("interprets a network for half a minute")
LIMIT = 0.03  # bf16 activations through two layers
FORMS: tuple[tuple[Format, bool], ...] = (("bf16", False), ("int4", True), ("bf16", True), ("int4", False))
STEPS = ([5, 3], [1, 1], [2, 1], [1, 3], [1, 1])  # tokens that each of two sequences adds: both step over a chunk edge


class FewSplits(TileTable):
    """Serving's tile configs with fewer splits, which take the interpreter minutes."""

    def decode_tile(self, sequences: int, *, e4m3: bool) -> DecodeTile:
        return super().decode_tile(sequences, e4m3=e4m3)._replace(splits=2)

    def vector_tile(self, weight_format: Format) -> VectorTile:
        return super().vector_tile(weight_format)._replace(rows=64, depth=64, splits=2)


def config(*, dense: bool = False) -> ModelConfig:
    return ModelConfig(
        TextConfig(
            vocab_size=300,
            hidden_size=64,
            heads=10,
            kv_heads=2,
            head_dim=16,
            expert_size=64,
            dense_size=96,
            experts=0 if dense else 4,
            rope_layers=(True, False),
            moe_layers=(False, False) if dense else (True, True),
            chunk=CHUNK,
            qk_norm=True,
            floor_scale=8,
        )
    )


def network(model_config: ModelConfig, weight_format: Format) -> WeightTree[Tensor]:
    weights = random_weights(model_config, 3, dtype=torch.bfloat16, std=0.12)
    packed = weights if weight_format == "bf16" else pack_network(weights, weight_format)
    return prepare(packed)  # type: ignore[return-value]


def run(model: Model, dtype: torch.dtype, steps: Sequence[Sequence[int]] = STEPS) -> Tensor:
    """The next token's logits of both sequences after every step."""
    shape = CacheShape(global_pages=12, local_pages=8, page_size=4, chunk=CHUNK)
    cache = KvCache.allocate(model.config.text, shape, dtype=dtype)
    pages = PageAllocators(shape)
    sequences = [pages.sequence() for _ in steps[0]]
    source = torch.Generator().manual_seed(1)
    scores: list[Tensor] = []
    for step in steps:
        works = [work(pages_of, count, source) for pages_of, count in zip(sequences, step, strict=True)]
        batch = build_batch(works)
        hidden = forward(model, batch, cache)
        scores.append(logits(model, hidden[batch.last_rows]))
    return torch.cat(scores)


def work(pages: SequencePages, count: int, source: torch.Generator) -> SequenceInput:
    pages.extend(count)
    return SequenceInput(pages, torch.randint(0, 300, (count,), generator=source).tolist())


@pytest.mark.parametrize(("weight_format", "deterministic"), thinned(FORMS, 4))
def test_a_moe_network_matches_its_reference(weight_format: Format, deterministic: bool) -> None:
    weights = network(config(), weight_format)
    assert error(kernel_logits(config(), weights, deterministic), reference_logits(config(), weights)) < LIMIT


@SLOW
def test_a_dense_network_matches_its_reference() -> None:
    dense = config(dense=True)
    weights = network(dense, "bf16")
    assert error(kernel_logits(dense, weights, False), reference_logits(dense, weights)) < LIMIT


@SLOW
@pytest.mark.parametrize("deterministic", [False, True])
def test_fp8_loses_no_more_to_exact_activations_than_its_reference(deterministic: bool) -> None:
    # Rounding to three bits turns a deviation d into one of about √(d·2⁻⁴), so that over a network kernels and twins
    # differ by the whole error of e4m3. The test bounds the kernels' error by their twins'.
    weights = network(config(), "fp8")
    exact = reference_logits(config(), weights, exact_rows=1000)
    lost = error(reference_logits(config(), weights, exact_rows=0 if deterministic else VECTOR_TOKENS), exact)
    assert error(kernel_logits(config(), weights, deterministic), exact) < 1.5 * lost + LIMIT / 2


@SLOW
def test_over_an_fp8_cache_the_network_is_nearer_to_its_reference_than_to_an_exact_cache() -> None:
    # As above: a number near an edge of e4m3 is rounded down by one and up by the other.
    weights = network(config(), "bf16")
    exact, rounded = reference_logits(config(), weights), reference_logits(config(), weights, cache=torch.float8_e4m3fn)
    lost, got = error(rounded, exact), kernel_logits(config(), weights, False, cache=torch.float8_e4m3fn)
    assert error(got, rounded) < lost / 2 + LIMIT / 2
    assert LIMIT < error(got, exact) < 1.2 * lost


def kernel_logits(
    model_config: ModelConfig, weights: WeightTree[Tensor], deterministic: bool, cache: torch.dtype = torch.bfloat16
) -> Tensor:
    with torch.inference_mode():
        return run(Model.create(model_config, weights, KernelOps(FewSplits(deterministic))), cache)


def reference_logits(
    model_config: ModelConfig,
    weights: WeightTree[Tensor],
    exact_rows: int = 0,
    cache: torch.dtype = torch.float32,
    steps: Sequence[Sequence[int]] = STEPS,
) -> Tensor:
    wide = weights.map(lambda tensor: tensor.float() if isinstance(tensor, Tensor) else tensor)
    with torch.inference_mode():
        return run(Model.create(model_config, wide, QuantizedReferenceOps(exact_rows)), cache, steps)


@SLOW
@pytest.mark.parametrize("cache", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("weight_format", ["bf16", "int4", "fp8"])
def test_a_network_that_merges_inside_attention_has_the_same_bits(weight_format: Format, cache: torch.dtype) -> None:
    weights = network(config(), weight_format)
    tiles, counters = FewSplits(trials=frozenset({"merge"})), arrival_counters("cpu")
    with torch.inference_mode():
        got = run(Model.create(config(), weights, KernelOps(tiles, counters)), cache)  # type: ignore[arg-type]
    assert torch.equal(got, kernel_logits(config(), weights, False, cache))
    assert not counters.any()


@SLOW
def test_a_network_whose_attention_is_in_shares_matches_its_reference() -> None:
    weights, tiles = network(config(), "bf16"), FewSplits(trials=frozenset({"share"}))
    with torch.inference_mode():
        got = run(Model.create(config(), weights, KernelOps(tiles)), torch.bfloat16)
    assert error(got, reference_logits(config(), weights)) < LIMIT


@SLOW
def test_deterministic_tiles_make_logits_independent_of_neighbours() -> None:
    model = Model.create(config(), network(config(), "int4"), KernelOps(FewSplits(deterministic=True)))
    shape = CacheShape(global_pages=24, local_pages=24, page_size=4, chunk=CHUNK)

    def last_logits(neighbours: list[int]) -> Tensor:
        pages, source = PageAllocators(shape), torch.Generator().manual_seed(2)
        cache = KvCache.allocate(model.config.text, shape, dtype=torch.bfloat16)
        own = pages.sequence()
        others = [work(pages.sequence(), count, source) for count in neighbours]
        own.extend(5)
        batch = build_batch([*others, SequenceInput(own, [9, 8, 7, 6, 5])])
        forward(model, batch, cache)
        own.extend(1)
        others = [work(pages.sequence(), 1, source) for _ in neighbours]
        batch = build_batch([*others[:1], SequenceInput(own, [4]), *others[1:]])
        return logits(model, forward(model, batch, cache))[min(1, len(neighbours))]

    with torch.inference_mode():
        assert torch.equal(last_logits([]), last_logits([3, 7, 1, 2, 6]))


def test_recorded_launches_run_nothing() -> None:
    x = torch.randn(1, 64, dtype=torch.bfloat16)
    with recording() as launches:
        KernelOps().linear(x, torch.randn(96, 64, dtype=torch.bfloat16))
    assert [launch.name for launch in launches] == ["gemv"]


def test_moe_refuses_experts_without_the_shared_one_behind_them() -> None:
    moe = random_weights(config(), 0, dtype=torch.bfloat16).layers[0].moe
    assert moe
    with pytest.raises(InvalidRequest, match="prepare"):
        KernelOps().moe(torch.randn(2, 64, dtype=torch.bfloat16), replace(moe))
