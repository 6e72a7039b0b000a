"""`head_dtype="fp8"`: the output head in FP8, whatever the layers' matrices are in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llama4_local import LocalBackend, plan, score
from llama4_local.checkpoint.loader import load_model, model_of
from llama4_local.config.formats import WeightFormat
from llama4_local.config.options import Options
from llama4_local.config.share import Share
from llama4_local.parallel.loading import ShardSource, load_share
from llama4_local.scoring import score_with
from llama4_local.weights.quantized import Fp8Matrix
from llama4sdk import Llama4, Sampling
from llama4sdk.errors import InvalidRequest
from local.divisible import SHAPES
from local.fp8_checkpoints import saved_fp8
from local.packable import packable, saved_packable, taken
from local.small_backends import asking, events_of, serving, text_of
from local.small_checkpoints import biting_weights, prompt, saved
from long_runs import LONG, only_long

FORMATS: list[WeightFormat | None] = [None, "int4", "fp8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_packable(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("quantize", FORMATS)
def test_scores_are_those_of_a_head_with_the_packed_numbers(folder: Path, quantize: WeightFormat | None) -> None:
    ids = prompt(packable(), 30)
    found = score(folder, ids, quantize=quantize, head_dtype="fp8")
    model = load_model(folder, dtype="float32", quantize=quantize, head_dtype="fp8")
    assert isinstance(model.weights.head, Fp8Matrix)
    wide = model_of(model.config, replace(model.weights, head=model.weights.head.dequantize()))
    assert float((found - score_with(wide, ids)).abs().max()) < 1e-4
    plain = score(folder, ids, quantize=quantize)
    assert 0 < float((found - plain).norm()) < 0.04 * float(plain.norm())  # each weight moves by a sixteenth at most


def test_an_fp8_checkpoint_takes_it_too(tmp_path: Path) -> None:
    config = replace(packable(), dtype="bfloat16")
    saved_fp8(tmp_path, config, biting_weights(config, dtype=torch.bfloat16), fused=True)
    ids = prompt(config, 12)
    found, plain = score(tmp_path, ids, head_dtype="fp8"), score(tmp_path, ids)
    assert 0 < float((found - plain).norm()) < 0.04 * float(plain.norm())


@pytest.mark.parametrize("quantize", FORMATS)
def test_the_planner_counts_its_bytes(folder: Path, quantize: WeightFormat | None) -> None:
    model = load_model(folder, dtype="float32", quantize=quantize, head_dtype="fp8")
    planned = plan(folder, quantize=quantize, dtype="float32", head_dtype="fp8", memory="1GB", machine="cpu")
    assert planned.weights.total == pytest.approx(taken(model.weights), rel=0.01)
    vocab, hidden = model.weights.head.shape
    assert planned.weights.head == vocab * (hidden + 4)


async def test_deterministic_answers_are_the_same_alone_and_in_company(folder: Path) -> None:
    async with serving(folder, head_dtype="fp8", deterministic=True) as backend:
        alone = text_of(await events_of(backend, asking()))
        assert alone == text_of(await events_of(backend, asking()))


async def test_nano_answers_right_with_it() -> None:
    async with Llama4(LocalBackend(head_dtype="fp8"), guards=None) as llama:
        reply = await llama.chat("What is 17 + 25?", sampling=Sampling(temperature=0, max_tokens=20))
    assert "42" in reply.text


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="head_dtype"):
        Options(head_dtype="int4")  # type: ignore[arg-type]


@pytest.mark.parametrize("fp8", [False, True] if LONG else [True])
def test_each_rank_packs_its_rows_to_the_numbers_of_one_process(fp8: bool, tmp_path: Path) -> None:
    config = replace(SHAPES["maverick"], fp8=fp8)
    folder = saved_fp8(tmp_path, config, biting_weights(config), fused=True) if fp8 else saved(tmp_path, config)
    whole: object = load_model(folder, dtype="float32", head_dtype="fp8").weights.head
    assert isinstance(whole, Fp8Matrix)
    for share in (Share(rank, 2) for rank in range(2)):
        own: object = load_share(ShardSource(str(folder), "float32", head_dtype="fp8"), share).head
        start, stop = share.vocabulary(config.text.vocab_size)
        assert isinstance(own, Fp8Matrix)
        assert torch.equal(own.dequantize(), whole.dequantize()[start:stop])
        assert torch.equal(own.scales, whole.scales[start:stop])
        planned = plan(folder, dtype="float32", head_dtype="fp8", memory="2x1GB", machine="cpu").weights.head
        assert share.rank or planned == (stop - start) * (config.text.hidden_size + 4)


@only_long("starts processes")
def test_scores_over_ranks_are_those_of_one_process(folder: Path) -> None:
    ids = prompt(packable(), 30)
    shared = score(folder, ids, head_dtype="fp8", tensor_parallel=2)
    assert float((shared - score(folder, ids, head_dtype="fp8")).abs().max()) < 1e-4
