"""GIF files, walked block by block (GIF89a specification) up to the end of their first frame.

Met here: a frame that grows the screen beyond the limits, which Pillow judges by a setting of the whole process.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from llama4sdk.images.container import Container, damaged, truncated

if TYPE_CHECKING:
    from llama4sdk.image_limits import ImageLimits

SIGNATURES = (b"GIF87a", b"GIF89a")
_EXTENSION, _FRAME, _TRAILER = 0x21, 0x2C, 0x3B


def inspect(data: bytes, limits: ImageLimits) -> Container:
    """Check the first frame of a GIF file and return the file without the others.

    Raises:
        ImageError: Too many pixels, no frame, cut off, or damaged.
    """
    if len(data) < 13:
        raise truncated("GIF")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    limits.check_size(width, height)
    place = _after_colours(13, flags)
    while (kind := _byte(data, place)) == _EXTENSION:
        place = _after_blocks(data, place + 2)
    if kind != _FRAME:
        raise damaged("GIF")
    if place + 10 > len(data):
        raise truncated("GIF")
    left, top, frame_width, frame_height, flags = struct.unpack_from("<HHHHB", data, place + 1)
    # A frame that reaches beyond the screen enlarges it.
    width, height = max(width, left + frame_width), max(height, top + frame_height)
    limits.check_size(width, height)
    limits.check_size(frame_width, frame_height)
    end = _after_blocks(data, _after_colours(place + 10, flags) + 1)
    return Container("GIF", width, height, data[:end] + bytes([_TRAILER]))


def _after_colours(place: int, flags: int) -> int:
    return place + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)


def _after_blocks(data: bytes, place: int) -> int:
    while length := _byte(data, place):
        place += 1 + length
    return place + 1


def _byte(data: bytes, place: int) -> int:
    if place >= len(data):
        raise truncated("GIF")
    return data[place]
