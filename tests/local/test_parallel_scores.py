"""Scores over several ranks: beside those of transformers in fp32, beside those of one process in other formats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from llama4_local.scoring import score
from llama4sdk.errors import InvalidRequest
from local.divisible import SHAPES
from local.fp8_checkpoints import saved_fp8
from local.small_checkpoints import CHUNK, biting_weights, prompt, saved, tile_pixels
from local.test_score_oracle import TOLERANCE, difference, expected, transformers
from long_runs import LONG, thinned

CASES = [(name, ranks) for name in SHAPES for ranks in (2, 4) if LONG or ranks == 2]
# How much farther from fp32 the scores may be than those of one process: parts in bf16 are rounded before their sum,
# and each rank's slices are quantized to FP8 with scales of their own.
FARTHER = 1.5


@pytest.mark.parametrize(("name", "ranks"), CASES)
def test_scores_over_ranks_are_those_of_transformers(name: str, ranks: int, tmp_path: Path):
    config = SHAPES[name]
    folder = saved(tmp_path, config)
    theirs: Any = transformers().Llama4Config.from_pretrained(folder)
    if config.text.chunk is None:
        theirs.text_config.attention_chunk_size = config.text.max_positions
    oracle = transformers().Llama4ForConditionalGeneration
    oracle = oracle.from_pretrained(folder, config=theirs, dtype=torch.float32).eval()
    ids, pixels = prompt(config, 5 * CHUNK + 3, 2), tile_pixels(config, 2)
    wanted = expected(oracle, ids, pixels)
    assert float(wanted.std()) > 0.5
    found = score(folder, ids, tiles=pixels, prefill_chunk=5, tensor_parallel=ranks)
    assert difference(found, wanted) <= TOLERANCE


@pytest.mark.parametrize("name", SHAPES if LONG else ["maverick"])
def test_int4_over_ranks_is_int4_in_one_process(name: str, tmp_path: Path):
    config = SHAPES[name]
    folder = saved(tmp_path, config)
    ids = prompt(config, 2 * CHUNK + 3)
    alone = score(folder, ids, quantize="int4")
    assert difference(score(folder, ids, quantize="int4", tensor_parallel=2), alone) <= TOLERANCE


@pytest.mark.parametrize(("dtype", "quantize"), thinned([("float32", "fp8"), ("bfloat16", None)], 2))
@pytest.mark.parametrize("name", SHAPES if LONG else ["maverick"])
def test_rounded_formats_are_as_near_fp32_as_in_one_process(
    name: str, dtype: str, quantize: Literal["fp8"] | None, tmp_path: Path
):
    config = SHAPES[name]
    folder = saved(tmp_path, config)
    ids = prompt(config, 2 * CHUNK + 3)
    exact = score(folder, ids)
    alone = score(folder, ids, dtype=dtype, quantize=quantize)
    shared = score(folder, ids, dtype=dtype, quantize=quantize, tensor_parallel=2)
    assert _distance(shared, exact) < FARTHER * _distance(alone, exact)


@pytest.mark.parametrize("fused", thinned([True, False], 2))
def test_published_fp8_is_sliced_with_its_scales(fused: bool, tmp_path: Path):
    config = SHAPES["maverick"]
    folder = saved_fp8(tmp_path, replace(config, fp8=True), biting_weights(config), fused=fused)
    ids = prompt(config, 2 * CHUNK + 3)
    assert difference(score(folder, ids, tensor_parallel=2), score(folder, ids)) <= TOLERANCE


def test_a_vocabulary_that_ranks_do_not_divide_is_joined_in_order(tmp_path: Path):
    config = SHAPES["guard"]
    config = replace(config, text=replace(config.text, vocab_size=321))
    folder = saved(tmp_path, config)
    ids = prompt(config, 12)
    assert difference(score(folder, ids, tensor_parallel=2), score(folder, ids)) <= TOLERANCE


@pytest.mark.parametrize("ranks", [3, 8])
def test_a_number_of_ranks_that_does_not_divide_the_heads_is_refused(ranks: int, tmp_path: Path):
    folder = saved(tmp_path, SHAPES["scout"])
    with pytest.raises(InvalidRequest, match="possible: 1, 2, 4"):
        score(folder, [1, 2], tensor_parallel=ranks)


def test_int4_groups_that_ranks_would_cut_are_refused(tmp_path: Path):
    config = SHAPES["scout"]
    config = replace(config, text=replace(config.text, expert_size=128))
    with pytest.raises(InvalidRequest, match="int4 groups"):
        score(saved(tmp_path, config), [1, 2], quantize="int4", tensor_parallel=2)


def _distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm())
