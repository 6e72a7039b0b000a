"""JPEG files, walked marker by marker (ITU-T T.81) before a decoder sees them."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from llama4sdk.errors import ImageError
from llama4sdk.images.container import Container, damaged, truncated

if TYPE_CHECKING:
    from llama4sdk.images.limits import ImageLimits

SIGNATURE = b"\xff\xd8\xff"
_END = 0xD9
_SCAN = 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the tables among them are no frames
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_MAX_SCANS = 100  # every scan of a progressive picture goes over all of it; usual are about 10
# Inside compressed data FF is followed by 00, or by a restart marker; anything else ends the scan.
_NEXT_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")


def inspect(data: bytes, limits: ImageLimits) -> Container:
    """Check a JPEG file up to its end marker and return it without what follows.

    Raises:
        ImageError: Too many pixels, cut off, damaged, or more than 100 scans.
    """
    size: tuple[int, int] | None = None
    scans, place = 0, 2
    while True:
        marker, place = _marker(data, place)
        if marker == _END:
            break
        if marker in _ALONE:
            continue
        end = _segment_end(data, place)
        if marker in _FRAMES:
            size = _frame(data, place, end, size, limits)
        if marker == _SCAN:
            scans += 1
            end = _scan_end(data, end)
        place = end
        if scans > _MAX_SCANS:
            raise ImageError(f"The JPEG picture has more than {_MAX_SCANS} scans; save it anew.")
    if size is None or not scans:
        raise damaged("JPEG")
    return Container("JPEG", *size, data[:place])


def _marker(data: bytes, place: int) -> tuple[int, int]:
    if place >= len(data):
        raise truncated("JPEG")
    found = _NEXT_MARKER.match(data, place)
    if found is None:
        raise damaged("JPEG") if data[place : place + 2].strip(b"\xff") else truncated("JPEG")
    return data[found.end() - 1], found.end()


def _segment_end(data: bytes, place: int) -> int:
    if place + 2 > len(data):
        raise truncated("JPEG")
    (length,) = struct.unpack_from(">H", data, place)
    if length < 2:
        raise damaged("JPEG")
    if place + length > len(data):
        raise truncated("JPEG")
    return place + length


def _frame(data: bytes, place: int, end: int, before: tuple[int, int] | None, limits: ImageLimits) -> tuple[int, int]:
    if before is not None or end - place < 8:
        raise damaged("JPEG")
    height, width = struct.unpack_from(">HH", data, place + 3)
    limits.check_size(width, height)
    return width, height


def _scan_end(data: bytes, place: int) -> int:
    found = _NEXT_MARKER.search(data, place)
    if found is None:
        raise truncated("JPEG")
    return found.start()
