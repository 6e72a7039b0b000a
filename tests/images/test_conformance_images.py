"""Grids and pixels are those of Meta's published image transform."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import pytest

import conformance_data
from llama4sdk.images import TileGrid, grid_for, load, tile
from synthetic_images import draw

if TYPE_CHECKING:
    from conformance_data import Case


def number(case: Case, name: str) -> int:
    return cast("int", case[name])


def test_every_grid_is_the_published_one() -> None:
    for case in conformance_data.cases("image_grids.json"):
        rows, cols, tiles, tokens = (number(case, name) for name in ("rows", "cols", "tiles", "prompt_tokens"))
        assert grid_for(number(case, "width"), number(case, "height")) == TileGrid(rows, cols, tiles, tokens)


def test_every_pixel_is_the_published_one() -> None:
    expected = np.load(conformance_data.file("pixels.npz"))
    for case in conformance_data.cases("pixels.json"):
        tiles = tile(draw(*cast("list[int]", case["synthetic"])))
        assert (tiles.rows, tiles.cols) == (case["rows"], case["cols"])
        assert np.array_equal(tiles.levels, expected[cast("str", case["key"])])


@pytest.mark.parametrize(("name", "size"), [("dog.jpg", (512, 512)), ("pasta.jpeg", (1280, 1280))])
def test_photos_are_read(name: str, size: tuple[int, int]) -> None:
    path = conformance_data.file(name)
    assert load(path).size == size
    assert tile(path).grid == grid_for(*size)
