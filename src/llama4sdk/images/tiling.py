"""Into which grid of tiles an image goes, as pure arithmetic on its width and height.

Facts of the published image transform: a canvas is any rows × cols of square tiles with at most
`max_tiles` of them; the image goes onto the canvas that enlarges it least, or, where every canvas is
too small, onto the one that shrinks it least; among equals the smallest canvas wins. On the canvas the
image keeps its shape, sits at the top left and is enlarged only up to the size of one tile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llama4sdk.errors import ImageError, InvalidRequest

TILE = 336  # pixels along the side of a tile in the published models
MAX_TILES = 16  # without the global tile
MAX_SIDE = 1_000_000  # beyond it the reference's single-precision ties are no longer exact
_PIXELS_PER_TOKEN = 28  # patches of 14 pixels, two by two folded into one token (pixel shuffle 0.5)


@dataclass(frozen=True, slots=True)
class TileGrid:
    """How an image is cut, and what it costs in the prompt.

    Attributes:
        rows: Tiles from top to bottom.
        cols: Tiles from left to right.
        tiles: All tiles handed to the model: rows · cols, and the global one where that is more than one.
        prompt_tokens: Tokens that the image takes in the prompt, its start and end included.
    """

    rows: int
    cols: int
    tiles: int
    prompt_tokens: int


def grid_for(width: int, height: int, tile: int = TILE, max_tiles: int = MAX_TILES) -> TileGrid:
    """Choose the grid of tiles for an image of this size.

    Args:
        width: Width of the image in pixels, after its orientation is applied.
        height: Height in pixels.
        tile: Side of a tile in pixels, a multiple of 28.
        max_tiles: Most tiles in the grid, the global tile not counted.

    Raises:
        ImageError: A side is not a whole number from 1 to 1,000,000.
        InvalidRequest: `tile` or `max_tiles` cannot be used.
    """
    _check_size(width, height)
    _check_tile(tile, max_tiles)
    canvases = [(rows, cols) for rows in range(1, max_tiles + 1) for cols in range(1, max_tiles // rows + 1)]
    scales = {(rows, cols): min(cols * tile / width, rows * tile / height) for rows, cols in canvases}
    enlarging = [scale for scale in scales.values() if scale >= 1]
    best = min(enlarging) if enlarging else max(scales.values())
    rows, cols = min((c for c in canvases if scales[c] == best), key=lambda canvas: canvas[0] * canvas[1])
    return TileGrid(rows, cols, _tile_count(rows, cols), prompt_tokens(rows, cols, tile))


def fitted_size(width: int, height: int, rows: int, cols: int, tile: int = TILE) -> tuple[int, int]:
    """Return the width and height in pixels to which the image is resized inside its canvas."""
    _check_size(width, height)
    # A small image grows to the size of one tile at most, however large the canvas.
    room_w = min(max(width, tile), cols * tile)
    room_h = min(max(height, tile), rows * tile)
    scale_w, scale_h = room_w / width, room_h / height
    if scale_w < scale_h:
        return room_w, max(1, min(math.floor(height * scale_w), room_h))
    return max(1, min(math.floor(width * scale_h), room_w)), room_h


def patch_tokens(tile: int = TILE) -> int:
    """Return how many patch tokens stand for one tile: 144 for the published 336 pixels."""
    return (tile // _PIXELS_PER_TOKEN) ** 2


def prompt_tokens(rows: int, cols: int, tile: int = TILE) -> int:
    """Return how many prompt tokens an image of rows × cols tiles takes.

    Every tile brings its patches; start, image and end tokens frame them; with several tiles each one is
    followed by a separator and the global tile comes last.
    """
    patches = patch_tokens(tile)
    if rows * cols == 1:
        return patches + 3
    return rows * cols * (patches + 1) + patches + 3


def _tile_count(rows: int, cols: int) -> int:
    return 1 if rows * cols == 1 else rows * cols + 1


def _check_size(width: int, height: int) -> None:
    for side in (width, height):
        if type(side) is not int or not 1 <= side <= MAX_SIDE:
            raise ImageError(
                f"An image's sides must be whole numbers from 1 to {MAX_SIDE:,} pixels, got {width}×{height}."
            )


def _check_tile(tile: int, max_tiles: int) -> None:
    if tile < _PIXELS_PER_TOKEN or tile % _PIXELS_PER_TOKEN:
        raise InvalidRequest(f"tile must be a positive multiple of {_PIXELS_PER_TOKEN} pixels, got {tile}.")
    if max_tiles < 1:
        raise InvalidRequest(f"max_tiles must be at least 1, got {max_tiles}.")
