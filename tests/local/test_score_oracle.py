"""Scores through the serving path, beside transformers' Llama 4 on the same folders, which it loads as they stand."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from llama4_local.checkpoint import loader
from llama4_local.checkpoint.loader import load_model
from llama4_local.checkpoint.writer import save_checkpoint
from llama4_local.config.model import ModelConfig
from llama4_local.ops.cpu.measuring import Choice
from llama4_local.scoring import score, score_with
from llama4sdk.errors import CheckpointError, InvalidRequest
from local.small_checkpoints import CHUNK, PATCH, VOCABULARY, prompt, saved, text_only, tile_pixels

TOLERANCE = 1e-4
PIECES = [1, 3, 7, None]


@dataclass
class Image:
    """What `llama4sdk.images.tile` returns has its pixels as an attribute."""

    pixels: np.ndarray


def transformers() -> Any:
    """Import transformers, which takes seconds, without its progress bars."""
    library = importlib.import_module("transformers")
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    return library


@pytest.fixture(scope="module")
def oracle(small: tuple[Path, ModelConfig]) -> Any:
    folder, config = small
    theirs = transformers().Llama4Config.from_pretrained(folder)
    if config.text.chunk is None:  # there transformers needs a size that is never reached
        theirs.text_config.attention_chunk_size = config.text.max_positions
    model = transformers().Llama4ForConditionalGeneration
    return model.from_pretrained(folder, config=theirs, dtype=torch.float32).eval()


@torch.no_grad()
def expected(oracle: Any, ids: list[int], pixels: Tensor | None = None) -> Tensor:
    return oracle(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0]


def difference(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    assert one.dtype == other.dtype == torch.float32
    return float((one - other).abs().max())


@pytest.mark.parametrize("tiles", [0, 1, 5])
@pytest.mark.parametrize("piece", PIECES)
def test_scores_are_those_of_transformers(small: tuple[Path, ModelConfig], oracle: Any, tiles: int, piece: int | None):
    folder, config = small
    ids = prompt(config, 30, tiles)
    pixels = tile_pixels(config, tiles) if tiles else None
    theirs = expected(oracle, ids, pixels)
    assert float(theirs.std()) > 0.5
    assert difference(score(folder, ids, tiles=pixels, prefill_chunk=piece), theirs) <= TOLERANCE


@pytest.mark.parametrize("piece", PIECES)
def test_scores_stay_those_of_transformers_across_ten_chunk_edges(
    small: tuple[Path, ModelConfig], oracle: Any, piece: int | None
):
    folder, config = small
    ids = prompt(config, 10 * CHUNK + 3, seed=5)
    assert difference(score(folder, ids, prefill_chunk=piece), expected(oracle, ids)) <= TOLERANCE


def test_the_oracle_notices_each_part_of_the_network(small: tuple[Path, ModelConfig], oracle: Any):
    folder, config = small
    model = load_model(folder)
    ids, pixels = prompt(config, 20, 1), tile_pixels(config, 1)
    theirs = expected(oracle, ids, pixels)
    for leaf in model.weights.leaves():
        changed = leaf.clone()
        leaf *= 1.05
        moved = difference(score_with(model, ids, pixels=pixels), theirs)
        leaf.copy_(changed)
        assert moved > TOLERANCE


def test_single_experts_in_shards_give_the_same_scores(small: tuple[Path, ModelConfig], oracle: Any, tmp_path: Path):
    folder, config = small
    save_checkpoint(tmp_path, config, load_model(folder, deterministic=True).weights, shards=3, fused=False)
    ids = prompt(config, 20)
    assert difference(score(tmp_path, ids), expected(oracle, ids)) <= TOLERANCE


def test_a_decoder_alone_gives_the_scores_of_transformers(tmp_path: Path):
    saved(tmp_path, text_only())
    oracle = transformers().Llama4ForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = prompt(text_only(), 30)
    with torch.no_grad():
        theirs = oracle(input_ids=torch.tensor([ids])).logits[0]
    assert difference(score(tmp_path, ids, prefill_chunk=5), theirs) <= TOLERANCE


def untimed(*_: object, **__: object) -> Choice:
    return Choice()


def test_pixels_may_come_as_arrays_or_as_cut_images(small: tuple[Path, ModelConfig], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loader, "choose", untimed)  # each load times its products, and may take other forms of them
    folder, config = small
    ids, pixels = prompt(config, 10, 3), tile_pixels(config, 3)
    frozen = pixels[1:].numpy().copy()
    frozen.flags.writeable = False
    wanted = score(folder, ids, tiles=pixels)
    assert torch.equal(score(folder, ids, tiles=pixels.numpy()), wanted)
    assert torch.equal(score(folder, ids, tiles=[pixels[:1], frozen]), wanted)
    assert torch.equal(score(folder, ids, tiles=[Image(pixels[:1].numpy()), Image(frozen)]), wanted)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_scores_are_near(small: tuple[Path, ModelConfig], dtype: str):
    folder, config = small
    ids = prompt(config, 12)
    found = score(folder, ids, dtype=dtype)
    assert found.dtype == torch.float32
    assert float((found - score(folder, ids)).abs().mean()) < 0.5


@pytest.mark.parametrize("ids", [[], [-1], [VOCABULARY], [10**12], [1.5], ["a"], [None]])
def test_fault_58_ids_that_are_no_tokens_are_refused(small: tuple[Path, ModelConfig], ids: list[Any]):
    with pytest.raises(InvalidRequest):
        score(small[0], ids)


@pytest.mark.parametrize("tiles", [None, 1, 3])
def test_tiles_that_do_not_match_the_placeholders_are_refused(small: tuple[Path, ModelConfig], tiles: int | None):
    folder, config = small
    pixels = tile_pixels(config, tiles) if tiles else None
    with pytest.raises(InvalidRequest, match="placeholders"):
        score(folder, prompt(config, 10, 2), tiles=pixels)


def test_tiles_of_the_wrong_shape_are_refused(small: tuple[Path, ModelConfig]):
    with pytest.raises(InvalidRequest, match="tiles must be"):
        score(small[0], [1, PATCH], tiles=torch.zeros(3, 16, 16))


@pytest.mark.parametrize("piece", [0, -1])
def test_a_piece_of_no_tokens_is_refused(small: tuple[Path, ModelConfig], piece: int):
    with pytest.raises(InvalidRequest, match="prefill_chunk"):
        score(small[0], [1], prefill_chunk=piece)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError):
        score(tmp_path, [1])
