"""Redraws the synthetic images that the conformance data speaks of, with integers only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray


def draw(width: int, height: int, seed: int) -> Image.Image:
    """Return the RGB image: two gradients, a checkered blue, and a disc in the middle."""
    x: NDArray[np.int64] = np.arange(width)[None, :].repeat(height, axis=0)
    y: NDArray[np.int64] = np.arange(height)[:, None].repeat(width, axis=1)
    red = x * 255 // max(width - 1, 1) % 256
    green = y * 255 // max(height - 1, 1) % 256
    blue = (x // (7 + seed % 5) + y // (5 + seed % 7)) % 2 * 200 + seed % 55
    levels = np.stack([red, green, blue], axis=-1)
    radius = max(1, min(height, width) // 4)
    disc = (y - height // 2) ** 2 + (x - width // 2) ** 2 < radius**2
    levels[disc] = (255 - seed * 37 % 256, seed * 91 % 256, seed * 53 % 256)
    return Image.fromarray(levels.astype(np.uint8))
