"""Images in an engine: seen in any pieces and company, told apart in the cache, refused where they do not fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from llama4_local.engine import image_features as images_module
from llama4_local.engine.engine import EngineLimits
from llama4_local.scoring import score_with
from llama4sdk.errors import InvalidRequest, ServerFault
from llama4sdk.images import Tiles
from local.small_backends import GREEDY, SmallEngine, check_at_rest, endless, image
from local.small_checkpoints import prompt


def pixels_of(*images: Tiles) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([image.pixels for image in images]))


def scored_with_pixels(small: SmallEngine, token_ids: list[int], images: tuple[Tiles, ...], count: int) -> str:
    tokens = list(token_ids)
    for _ in range(count):
        scores = score_with(small.model, tokens, pixels=pixels_of(*images))[-1]
        scores[small.config.image_token_id or 0] = -torch.inf
        tokens.append(int(scores.argmax()))
    return small.tokenizer.decode(tokens[len(token_ids) :])


def test_images_are_seen_in_any_pieces_and_company(shaped: SmallEngine) -> None:
    images = (image(shaped.config, 2, seed=1), image(shaped.config, 1, seed=2))
    token_ids = prompt(shaped.config, 12, tiles=2) + prompt(shaped.config, 9, tiles=1, seed=1)
    sampling = replace(GREEDY, max_tokens=4)
    expected = scored_with_pixels(shaped, token_ids, images, 4)
    for step_tokens in (3, 16):
        small = SmallEngine(shaped.config, limits=EngineLimits(step_tokens=step_tokens, max_sequences=2))
        mate = small.submit(prompt(shaped.config, 15, seed=5), sampling)
        assert small.answer(token_ids, sampling, tiles=images).text == expected
        assert mate.done
        check_at_rest(small)


def test_another_image_in_the_same_place_shares_nothing_after_it() -> None:
    small = SmallEngine(endless())
    token_ids = prompt(small.config, 24, tiles=1)
    cached: list[int] = []
    for seed in (1, 1, 2):
        reader = small.answer(token_ids, replace(GREEDY, max_tokens=2), tiles=(image(small.config, 1, seed),))
        cached.append(reader.usage.cached_tokens)
    assert cached == [0, 24, 4]


def test_tiles_that_do_not_fit_the_prompt_are_refused() -> None:
    small = SmallEngine(endless())
    reader = small.answer(prompt(small.config, 8), tiles=(image(small.config, 1),))
    assert isinstance(reader.error, InvalidRequest)
    check_at_rest(small)


def test_an_image_that_cannot_be_encoded_ends_one_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    small = SmallEngine(endless())

    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("no")

    monkeypatch.setattr(images_module, "encode_tiles", broken)
    mate = small.submit(prompt(small.config, 6))
    reader = small.answer(prompt(small.config, 8, tiles=1), tiles=(image(small.config, 1),))
    assert isinstance(reader.error, ServerFault)
    assert mate.done
    check_at_rest(small)


def test_features_are_dropped_when_their_part_of_the_prompt_is_computed(shaped: SmallEngine) -> None:
    if not shaped.config.vision or shaped.config.image_token_id is None:
        pytest.skip("a network without an image encoder")
    small = SmallEngine(shaped.config, limits=EngineLimits(step_tokens=1, max_sequences=2))
    placeholders = [shaped.config.image_token_id] * shaped.config.vision.patch_tokens
    tiles = tuple(image(small.config, 1, seed) for seed in range(3))
    small.submit([1, *placeholders, 2, *placeholders, 3, *placeholders, 4], tiles=tiles)
    (state,) = small.engine._states.values()  # pyright: ignore[reportPrivateUsage]
    assert state.images is not None
    one = len(placeholders) * shaped.config.text.hidden_size * 4
    kept: list[int] = []
    while not small.engine.idle:
        small.engine.step()
        kept.append(state.images.bytes)
    assert max(kept) == one
    assert kept[-1] == 0
