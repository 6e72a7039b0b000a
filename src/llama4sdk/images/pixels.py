"""Images cut into tiles of pixels, equal to those of the published image transform."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama4sdk.image_limits import DEFAULT_LIMITS, ImageLimits
from llama4sdk.images.source import load, load_async
from llama4sdk.images.tiling import MAX_TILES, TILE, TileGrid, fitted_size, grid_for, prompt_tokens

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from llama4sdk.images.source import ImagePart, Source


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """An image as the model takes it in; two are equal when their digests are.

    Attributes:
        levels: uint8 [tiles, 3, tile, tile], red, green, blue in 0..255: the grid row by row, then, where it
            has several tiles, the global one, the whole image at the size of a tile. Read-only.
        rows: Tiles from top to bottom, the global one not counted.
        cols: Tiles from left to right.
        digest: SHA-256 over grid and levels, in hexadecimal.
    """

    levels: NDArray[np.uint8]
    rows: int
    cols: int
    digest: str

    @property
    def pixels(self) -> NDArray[np.float32]:
        """float32 [tiles, 3, tile, tile] in −1..1, computed anew at each access."""
        import numpy as np

        # The published normalisation in single precision: /255, minus 0.5, over 0.5; once per level.
        half = np.float32(0.5)
        scale = (np.arange(256, dtype=np.float32) / np.float32(255) - half) / half
        return scale[self.levels]

    @property
    def grid(self) -> TileGrid:
        """The grid and what it costs in the prompt."""
        count, _, tile, _ = self.levels.shape
        return TileGrid(self.rows, self.cols, count, prompt_tokens(self.rows, self.cols, tile))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tiles) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"<Tiles {self.rows}×{self.cols}, {self.digest[:12]}>"


def tile(
    image: Source | ImagePart,
    *,
    tile: int = TILE,
    max_tiles: int = MAX_TILES,
    limits: ImageLimits = DEFAULT_LIMITS,
    fetch: bool = False,
    orient: bool = True,
) -> Tiles:
    """Read an image from this machine and cut it into tiles.

    Args:
        image: What `load` takes: path, bytes, Pillow image, data URL, or a message part.
        tile: Side of a tile in pixels, a multiple of 28.
        max_tiles: Most tiles in the grid, the global tile not counted.
        limits: Bounds on bytes and pixels.
        fetch: See `load`.
        orient: Whether to apply the EXIF orientation.

    Raises:
        ImageError: The image cannot be read or is larger than allowed.
        UrlBlocked: A web address; `tile_async` fetches those that are allowed.
        InvalidRequest: `tile` or `max_tiles` cannot be used.
    """
    return cut(load(image, limits=limits, fetch=fetch, orient=orient), tile, max_tiles)


async def tile_async(
    image: Source | ImagePart,
    *,
    tile: int = TILE,
    max_tiles: int = MAX_TILES,
    limits: ImageLimits = DEFAULT_LIMITS,
    fetch: bool = False,
    orient: bool = True,
) -> Tiles:
    """Read and cut an image as `tile` does, off the event loop, and from the web where `fetch` allows it.

    Raises:
        ImageError: The image cannot be read or is larger than allowed.
        UrlBlocked: The web was not allowed, or the address may not be reached.
        Unreachable: The web server does not answer.
        InvalidRequest: `tile` or `max_tiles` cannot be used.
    """
    from anyio import to_thread

    image = await load_async(image, limits=limits, fetch=fetch, orient=orient)
    return await to_thread.run_sync(cut, image, tile, max_tiles)


def cut(image: Image.Image, tile: int = TILE, max_tiles: int = MAX_TILES) -> Tiles:
    """Cut an RGB image into tiles."""
    import numpy as np

    grid = grid_for(*image.size, tile=tile, max_tiles=max_tiles)
    canvas = _on_canvas(image, grid.rows, grid.cols, tile)
    levels = canvas.reshape(grid.rows, tile, grid.cols, tile, 3).transpose(0, 2, 4, 1, 3)
    levels = levels.reshape(-1, 3, tile, tile)
    if grid.tiles > 1:
        levels = np.concatenate([levels, _whole(image, tile)])
    levels = np.ascontiguousarray(levels)
    levels.flags.writeable = False
    return Tiles(levels, grid.rows, grid.cols, _digest(levels, grid))


def _on_canvas(image: Image.Image, rows: int, cols: int, tile: int) -> NDArray[np.uint8]:
    import numpy as np

    fitted = _resize(image, fitted_size(*image.size, rows, cols, tile))
    canvas = np.zeros((rows * tile, cols * tile, 3), np.uint8)  # black where the image does not reach
    canvas[: fitted.height, : fitted.width] = np.asarray(fitted)
    return canvas


def _whole(image: Image.Image, tile: int) -> NDArray[np.uint8]:
    import numpy as np

    return np.asarray(_resize(image, (tile, tile))).transpose(2, 0, 1)[None]


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    from PIL.Image import Resampling

    return image if image.size == size else image.resize(size, Resampling.BILINEAR)


def _digest(levels: NDArray[np.uint8], grid: TileGrid) -> str:
    digest = hashlib.sha256(f"tiles {grid.rows} {grid.cols} {levels.shape}\n".encode())
    digest.update(levels.data)
    return digest.hexdigest()
