"""JPEG files, walked marker by marker (ITU-T T.81) before a decoder sees them."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from llama4sdk.errors import ImageError
from llama4sdk.images.container import Container, damaged, truncated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llama4sdk.images.limits import ImageLimits

SIGNATURE = b"\xff\xd8\xff"
_END = 0xD9
_SCAN = 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the tables among them are no frames
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_EXIF = 0xE1
# Of what applications add, only two bear on the pixels: JFIF's, and Adobe's that tells how colours are stored.
_LEFT_OUT = {*range(0xE0, 0xF0), 0xFE} - {0xE0, 0xEE}
_MAX_SCANS = 100  # every scan of a progressive image goes over all of it; usual are about 10
_STEP = 256 * 1024  # bytes
# Inside compressed data FF is followed by 00, or by a restart marker; anything else ends the scan.
_NEXT_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")


def inspect(data: bytes, limits: ImageLimits) -> Container:
    """Check a JPEG file up to its end marker and return it without metadata and what follows.

    Raises:
        ImageError: Too many pixels, cut off, damaged, or more than 100 scans.
    """
    size: tuple[int, int] | None = None
    scans, exif, kept = 0, b"", [data[:2]]
    for marker, body, segment in _segments(data):
        if marker in _FRAMES:
            size = _frame(body, size, limits)
        elif marker == _SCAN:
            scans = _counted(scans)
        elif marker == _EXIF and body.startswith(b"Exif\0\0"):
            exif = exif or body
        if marker not in _LEFT_OUT:
            kept.append(segment)
    if size is None or not scans:
        raise damaged("JPEG")
    return Container("JPEG", *size, b"".join(kept), exif)


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield each marker, the body that belongs to it, and all of its bytes, a scan's data included."""
    place = 2
    while True:
        # As the common decoder does, go over stray bytes between segments.
        start, body = _find_marker(data, place)
        marker = data[body - 1]
        if marker == _END:
            yield marker, b"", data[start:body]
            return
        if marker in _ALONE:
            place = body
            continue
        end = _segment_end(data, body)
        place = _find_marker(data, end)[0] if marker == _SCAN else end
        yield marker, data[body + 2 : end], data[start:place]


def _find_marker(data: bytes, place: int) -> tuple[int, int]:
    # In steps, between which other threads get their turn; a marker begins in one and may end in the next.
    for start in range(place, len(data), _STEP):
        marker = _NEXT_MARKER.search(data, start, start + _STEP + 1)
        if marker is not None:
            return marker.span()
    raise truncated("JPEG")


def _segment_end(data: bytes, place: int) -> int:
    if place + 2 > len(data):
        raise truncated("JPEG")
    (length,) = struct.unpack_from(">H", data, place)
    if length < 2:
        raise damaged("JPEG")
    if place + length > len(data):
        raise truncated("JPEG")
    return place + length


def _counted(scans: int) -> int:
    if scans >= _MAX_SCANS:
        raise ImageError(f"The JPEG image has more than {_MAX_SCANS} scans; save it anew.")
    return scans + 1


def _frame(body: bytes, before: tuple[int, int] | None, limits: ImageLimits) -> tuple[int, int]:
    if before is not None or len(body) < 6:
        raise damaged("JPEG")
    height, width = struct.unpack_from(">HH", body, 1)
    limits.check_size(width, height)
    return width, height
