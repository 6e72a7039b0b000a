"""Encoded images for tests, sound ones and ones that no sound program would write."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterable

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Write an image in one of Pillow's formats."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def animated(kind: str, colours: Iterable[str] = ("red", "green", "blue"), **options: object) -> bytes:
    """Write an animation with one frame of each colour."""
    first, *others = (Image.new("RGB", (20, 10), colour) for colour in colours)
    return encoded(first, kind, save_all=True, append_images=others, duration=100, **options)


def turned(image: Image.Image, orientation: int, kind: str = "JPEG") -> bytes:
    """Write an image whose EXIF data asks for a turn."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(image, kind, exif=exif, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))


def chunk(kind: bytes, body: bytes) -> bytes:
    """Write one PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int,
    height: int,
    rows: bytes,
    *,
    depth: int = 8,
    colour: int = 2,
    interlace: int = 0,
    extra: bytes = b"",
    packed: bytes | None = None,
) -> bytes:
    """Write a PNG file of raw rows, each with its filter byte, whether they fit the header or not."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    pixels = zlib.compress(rows) if packed is None else packed
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return PNG_SIGNATURE + chunks
