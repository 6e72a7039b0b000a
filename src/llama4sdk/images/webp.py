"""WEBP files: the header of the RIFF container (RFC 9649).

Met here: a header of too many pixels, for which Pillow allocates the canvas as soon as it opens the file.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from llama4sdk.images.container import Container, damaged, truncated

if TYPE_CHECKING:
    from llama4sdk.image_limits import ImageLimits

_HEAD = 30  # bytes: the container's head, the first chunk's, and its sizes


def is_webp(data: bytes) -> bool:
    """Tell whether the data begins as a WEBP file does."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def inspect(data: bytes, limits: ImageLimits) -> Container:
    """Check the header of a WEBP file and that all of the file is there.

    Raises:
        ImageError: Too many pixels, cut off, or damaged.
    """
    if len(data) < _HEAD or len(data) < (end := 8 + struct.unpack_from("<I", data, 4)[0]):
        raise truncated("WEBP")
    width, height = _size(data)
    limits.check_size(width, height)
    return Container("WEBP", width, height, data[:end])


def _size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":  # extended: three bytes for each side of the canvas, less one
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L" and data[20] == 0x2F:  # lossless: fourteen bits for each side, less one
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":  # lossy: the key frame's header
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise damaged("WEBP")
