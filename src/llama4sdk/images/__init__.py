"""Images: read within limits, and cut into the tiles that Llama 4 takes in.

    grid_for          which grid of tiles an image of a given size needs, and its prompt tokens
    tile, tile_async  an image as tiles of pixels
    load, load_async  an image as an RGB image

Pillow, numpy and httpx are imported by the functions that need them, not by this package.
"""

from llama4sdk.image_limits import ImageLimits
from llama4sdk.images.pixels import Tiles, cut, tile, tile_async
from llama4sdk.images.source import ImagePart, Source, load, load_async
from llama4sdk.images.tiling import TileGrid, fitted_size, grid_for, patch_tokens, prompt_tokens

__all__ = [
    "ImageLimits",
    "ImagePart",
    "Source",
    "TileGrid",
    "Tiles",
    "cut",
    "fitted_size",
    "grid_for",
    "load",
    "load_async",
    "patch_tokens",
    "prompt_tokens",
    "tile",
    "tile_async",
]
