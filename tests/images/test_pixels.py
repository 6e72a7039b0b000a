"""Images as tiles: what lies where, and that equal images are equal."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from image_files import encoded
from llama4sdk.errors import ImageError, InvalidRequest
from llama4sdk.images import TileGrid, Tiles, cut, tile, tile_async
from synthetic_images import draw


def test_tiles_are_floats_between_minus_one_and_one() -> None:
    tiles = tile(draw(640, 480, 1))
    assert tiles.pixels.dtype == np.float32
    assert tiles.pixels.shape == (5, 3, 336, 336)
    assert (tiles.pixels.min(), tiles.pixels.max()) == (-1.0, 1.0)
    assert tiles.grid == TileGrid(2, 2, 5, 727)


def test_every_level_is_normalised_as_published() -> None:
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(3).reshape(16, 16, 3))
    tiles = cut(image.resize((336, 336), Image.Resampling.NEAREST))
    levels = tiles.levels.astype(np.float32)
    assert np.array_equal(tiles.pixels, (levels / np.float32(255) - np.float32(0.5)) / np.float32(0.5))


def test_tiles_go_row_by_row_and_the_whole_image_comes_last() -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    image = Image.fromarray(colours.repeat(336, axis=0).repeat(336, axis=1))
    tiles = tile(image)
    assert (tiles.rows, tiles.cols) == (2, 2)
    for place, colour in enumerate(colours.reshape(4, 3)):
        assert (tiles.levels[place] == colour[:, None, None]).all()
    for row, col in ((0, 0), (0, 335), (335, 0), (335, 335)):
        assert (tiles.levels[4, :, row, col] == colours[row // 168, col // 168]).all()


def test_what_the_image_does_not_cover_is_black() -> None:
    tiles = tile(Image.new("RGB", (336, 100), "white"))
    assert (tiles.levels[0, :, :100] == 255).all()
    assert not tiles.levels[0, :, 100:].any()


def test_fault_24_one_pixel_fills_one_tile() -> None:
    tiles = tile(Image.new("RGB", (1, 1), (10, 20, 30)))
    assert tiles.levels.shape == (1, 3, 336, 336)
    assert (tiles.levels == np.array([10, 20, 30], np.uint8)[None, :, None, None]).all()


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1)])
def test_fault_25_a_line_becomes_no_more_tiles_than_any_image(size: tuple[int, int]) -> None:
    assert tile(Image.new("RGB", size)).levels.shape == (17, 3, 336, 336)


def test_small_tiles_for_a_small_model() -> None:
    tiles = tile(draw(300, 200, 2), tile=56, max_tiles=4)
    assert tiles.levels.shape[1:] == (3, 56, 56)
    assert tiles.grid.prompt_tokens == tiles.rows * tiles.cols * 5 + 7
    with pytest.raises(InvalidRequest):
        tile(draw(30, 20, 2), tile=50)


def test_the_same_image_has_the_same_digest() -> None:
    tiles, again = tile(draw(50, 40, 3)), tile(encoded(draw(50, 40, 3)))
    assert tiles == again
    assert hash(tiles) == hash(again)
    assert len(tiles.digest) == 64


def test_another_pixel_or_another_grid_is_another_digest() -> None:
    image = Image.new("RGB", (672, 336))
    changed = image.copy()
    changed.putpixel((600, 300), (1, 1, 1))
    turned = image.transpose(Image.Transpose.ROTATE_90)
    assert len({tile(image).digest for image in (image, changed, turned)}) == 3


def test_tiles_cannot_be_changed() -> None:
    tiles = tile(draw(50, 40, 3))
    with pytest.raises(ValueError, match="read-only"):
        tiles.levels[0] = 0
    with pytest.raises(AttributeError):
        tiles.rows = 7  # pyright: ignore[reportAttributeAccessIssue]
    tiles.pixels[:] = 0
    assert tiles.pixels.any()


def test_tiles_are_shown_without_their_pixels() -> None:
    tiles = tile(draw(50, 40, 3))
    assert repr(tiles) == f"<Tiles 1×1, {tiles.digest[:12]}>"
    assert tiles != "tiles"


async def test_tiles_made_beside_the_loop_are_the_same() -> None:
    found = await tile_async(encoded(draw(640, 480, 1)), tile=56, max_tiles=4)
    assert isinstance(found, Tiles)
    assert found == tile(draw(640, 480, 1), tile=56, max_tiles=4)


async def test_a_bad_image_fails_the_same_way_beside_the_loop() -> None:
    with pytest.raises(ImageError, match="empty"):
        await tile_async(b"")
