"""PNG files, walked chunk by chunk (PNG Specification, Third Edition) before a decoder sees them.

Met here: too few rows, which Pillow accepts, and text and colour profiles that explode, which it unpacks. The pixel
data must inflate to all rows, and only what the image needs is passed on; damage in the rest of a file harms nothing.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

from llama4sdk.errors import ImageError
from llama4sdk.images.container import Container, damaged, truncated
from llama4sdk.images.orientation import from_raw_profile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llama4sdk.image_limits import ImageLimits

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEPT = {b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_CHECKED = {b"IHDR", *_KEPT}
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_EXIF_PROFILES = (b"Raw profile type exif\0", b"Raw profile type APP1\0")  # ImageMagick's names
_PACKED = {b"zTXt", b"iTXt", b"iCCP"}
_MAX_CHUNKS = 65_536
_MAX_UNPACKED = 4 * 1024 * 1024  # bytes of text and profiles together; a large colour profile takes 2 MiB
_STEP = 64 * 1024  # bytes inflated at a time
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# Adam7: first column and row of each pass, and its steps.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class _Header(NamedTuple):
    width: int
    height: int
    bits: int  # of a pixel
    interlaced: bool


def inspect(data: bytes, limits: ImageLimits) -> Container:
    """Check a PNG file and return it without text, profiles and animation frames.

    Raises:
        ImageError: Too many pixels, rows missing, damaged, or text that unpacks to more than 4 MiB.
    """
    chunks = _chunks(data)
    kind, body, raw, _ = next(chunks)
    header = _header(kind, body, limits)
    kept, unpacked, exif, profile = [SIGNATURE, bytes(raw)], 0, b"", b""
    pixels: list[memoryview] = []
    for kind, body, raw, intact in chunks:
        if not intact:
            continue
        text = b""
        if kind in _PACKED:
            text = _unpacked(kind, bytes(body), _MAX_UNPACKED - unpacked)
            unpacked += len(text)
        if kind in _TEXTS and bytes(body[:22]) in _EXIF_PROFILES:
            profile = from_raw_profile(text or _plain_part(kind, bytes(body)))
        if kind == b"eXIf":
            exif = bytes(body)
        if kind == b"IDAT":
            pixels.append(body)
        if kind in _KEPT:
            kept.append(bytes(raw))
    _check_rows(pixels, _raw_size(header))
    return Container("PNG", header.width, header.height, b"".join(kept), exif or profile)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview, bool]]:
    """Yield each chunk's kind, body, all of its bytes, and whether its checksum is right."""
    view, start = memoryview(data), len(SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if start + 12 > len(data):
            raise truncated("PNG")
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data):
            raise truncated("PNG")
        body = view[start + 8 : end - 4]
        intact = zlib.crc32(view[start + 4 : end - 4]) == struct.unpack_from(">I", data, end - 4)[0]
        if not intact and kind in _CHECKED:
            raise damaged("PNG")
        yield kind, body, view[start:end], intact
        if kind == b"IEND":
            return
        start = end
    raise damaged("PNG")


def _header(kind: bytes, body: memoryview, limits: ImageLimits) -> _Header:
    if kind != b"IHDR" or len(body) != 13:
        raise damaged("PNG")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", body)
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise damaged("PNG")
    limits.check_size(width, height)
    return _Header(width, height, depth * _CHANNELS[colour], bool(interlace))


def _raw_size(header: _Header) -> int:
    width, height, bits, interlaced = header
    if not interlaced:
        return _pass_size(width, height, bits)
    return sum(
        _pass_size(-(-(width - x) // step_x), -(-(height - y) // step_y), bits)
        for x, y, step_x, step_y in _ADAM7
        if width > x and height > y
    )


def _pass_size(width: int, height: int, bits: int) -> int:
    return height * (1 + (width * bits + 7) // 8)  # one byte names the filter of each row


def _check_rows(pixels: list[memoryview], expected: int) -> None:
    try:
        for count in _inflate(pixels):
            expected -= count
            if expected <= 0:
                return
    except zlib.error:
        raise damaged("PNG") from None
    raise truncated("PNG")


def _inflate(parts: list[memoryview]) -> Iterator[int]:
    inflater = zlib.decompressobj()
    for part in parts:
        for start in range(0, len(part), _STEP):
            rest = bytes(part[start : start + _STEP])
            while rest:
                yield len(inflater.decompress(rest, _STEP))
                rest = inflater.unconsumed_tail
    yield len(inflater.flush())


def _unpacked(kind: bytes, body: bytes, room: int) -> bytes:
    packed = _packed_part(kind, body)
    try:
        text = zlib.decompressobj().decompress(packed, room + 1)
    except zlib.error:  # unreadable text is dropped with the rest of the text
        return b""
    if len(text) > room:
        raise ImageError(f"The image's text or colour profile unpacks to more than {_MAX_UNPACKED:,} bytes.")
    return text


def _plain_part(kind: bytes, body: bytes) -> bytes:
    after_name = body.partition(b"\0")[2]
    return after_name[2:].partition(b"\0")[2].partition(b"\0")[2] if kind == b"iTXt" else after_name


def _packed_part(kind: bytes, body: bytes) -> bytes:
    after_name = body.partition(b"\0")[2]
    if kind != b"iTXt":
        return after_name[1:]
    if not after_name.startswith(b"\1"):
        return b""
    return after_name[2:].partition(b"\0")[2].partition(b"\0")[2]
