"""Which grid an image gets: arithmetic that holds for every size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama4sdk.errors import ImageError, InvalidRequest
from llama4sdk.images import TileGrid, fitted_size, grid_for, patch_tokens, prompt_tokens

sides = st.integers(1, 20_000)
tiles = st.sampled_from([28, 56, 112, 336, 560])
counts = st.integers(1, 30)


@given(width=sides, height=sides, tile=tiles, most=counts)
def test_a_grid_has_no_more_tiles_than_allowed(width: int, height: int, tile: int, most: int) -> None:
    grid = grid_for(width, height, tile=tile, max_tiles=most)
    assert 1 <= grid.rows * grid.cols <= most
    assert grid.tiles == grid.rows * grid.cols + (grid.rows * grid.cols > 1)
    assert grid.prompt_tokens == prompt_tokens(grid.rows, grid.cols, tile)


@given(width=sides, height=sides, tile=tiles, most=counts)
def test_an_image_fits_its_canvas_and_touches_two_of_its_sides(width: int, height: int, tile: int, most: int) -> None:
    grid = grid_for(width, height, tile=tile, max_tiles=most)
    fitted_width, fitted_height = fitted_size(width, height, grid.rows, grid.cols, tile)
    room_width = min(max(width, tile), grid.cols * tile)
    room_height = min(max(height, tile), grid.rows * tile)
    assert 1 <= fitted_width <= room_width
    assert 1 <= fitted_height <= room_height
    assert fitted_width == room_width or fitted_height == room_height


@given(width=sides, height=sides, most=counts)
def test_a_turned_image_gets_the_turned_grid(width: int, height: int, most: int) -> None:
    grid, turned = grid_for(width, height, max_tiles=most), grid_for(height, width, max_tiles=most)
    assert (grid.rows, grid.cols, grid.tiles) == (turned.cols, turned.rows, turned.tiles)


@given(width=sides, height=sides)
def test_an_image_is_never_shrunk_where_a_canvas_has_room_for_it(width: int, height: int) -> None:
    fits = any(
        width <= cols * 336 and height <= rows * 336 for rows in range(1, 17) for cols in range(1, 16 // rows + 1)
    )
    grid = grid_for(width, height)
    assert (width <= grid.cols * 336 and height <= grid.rows * 336) == fits


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (336, 336, TileGrid(1, 1, 1, 147)),
        (337, 336, TileGrid(1, 2, 3, 437)),
        (400, 300, TileGrid(1, 2, 3, 437)),
        (640, 480, TileGrid(2, 2, 5, 727)),
    ],
)
def test_published_grids(width: int, height: int, expected: TileGrid) -> None:
    assert grid_for(width, height) == expected


def test_a_small_model_has_small_tiles() -> None:
    assert patch_tokens() == 144
    assert patch_tokens(56) == 4
    assert grid_for(100, 50, tile=56, max_tiles=4) == TileGrid(1, 2, 3, 2 * 5 + 7)


def test_fault_24_a_single_pixel_is_one_tile() -> None:
    assert grid_for(1, 1) == TileGrid(1, 1, 1, 147)
    assert fitted_size(1, 1, 1, 1) == (336, 336)


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1, 1_000_000), (1_000_000, 1)])
def test_fault_25_a_line_has_a_bounded_number_of_tiles(size: tuple[int, int]) -> None:
    grid = grid_for(*size)
    assert grid.tiles == 17
    assert min(fitted_size(*size, grid.rows, grid.cols)) == 1


@pytest.mark.parametrize("side", [0, -1, 1_000_001, 10**400, 1.5, True, None, "336", float("nan")])
def test_a_side_that_is_no_size_is_an_image_error(side: object) -> None:
    with pytest.raises(ImageError, match="whole numbers from 1"):
        grid_for(side, 10)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ImageError, match="whole numbers from 1"):
        fitted_size(10, side, 1, 1)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("tile", "most"), [(0, 16), (-28, 16), (300, 16), (336, 0), (336, -1)])
def test_a_tile_that_cannot_be_cut_into_patches_is_refused(tile: int, most: int) -> None:
    with pytest.raises(InvalidRequest):
        grid_for(10, 10, tile=tile, max_tiles=most)
