"""JPEG files: their header walked marker by marker (ITU-T T.81), their compressed data left to the decoder.

Cameras write restart markers, after which a decoder finds its way again behind a damaged spot; so everything from
the first scan on goes to the decoder as it is. The walk of the header meets two attacks: a frame of too many pixels,
and damaged metadata, of which Pillow warns by the process's own filters. `Feed` meets a third: countless scans.
"""

from __future__ import annotations

import re
import struct
from io import BytesIO
from typing import TYPE_CHECKING

from llama4sdk.errors import ImageError
from llama4sdk.images.container import Container, damaged, truncated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llama4sdk.image_limits import ImageLimits

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
_MARKER = re.compile(rb"\xff+[^\x00\xff]")


class Feed(BytesIO):
    """A JPEG file as its decoder reads it: it ends in an error, and so do more than 100 scans.

    Args:
        data: The file.
        start: Place of its first scan.

    Raises:
        ImageError: On reading, once more is asked for than there is, or the scans are too many.
    """

    def __init__(self, data: bytes, start: int) -> None:
        super().__init__(data)
        self._start = start
        self._scans = 0
        self._last = b""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes; while the header is read, as any file does."""
        place = self.tell()
        data = super().read(size)
        if place < self._start:
            data = data[: self._start - place]  # so that a read begins where the first scan does
            self.seek(place + len(data))
            self._scans, self._last = 0, b""
            return data
        if not data:
            raise truncated("JPEG")
        self._scans += (self._last + data).count(b"\xff\xda")
        self._last = data[-1:]
        if self._scans > _MAX_SCANS:
            raise ImageError(f"The JPEG image has more than {_MAX_SCANS} scans; save it anew.")
        return data


def inspect(data: bytes, limits: ImageLimits) -> Container:
    """Check the header of a JPEG file and return the file without metadata.

    Raises:
        ImageError: Too many pixels, cut off or damaged before its first scan.
    """
    size: tuple[int, int] | None = None
    exif, kept = b"", [data[:2]]
    for marker, body, segment in _segments(data):
        if marker in _FRAMES:
            size = _frame(body, size, limits)
        elif marker == _EXIF and body.startswith(b"Exif\0\0"):
            exif = exif or body
        if marker not in _LEFT_OUT:
            kept.append(segment)
        if marker == _SCAN and size is not None:
            whole = b"".join(kept)
            return Container("JPEG", *size, whole, exif, scan=len(whole) - len(segment))
    raise damaged("JPEG")


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield each marker, the body that belongs to it, and all of its bytes; the first scan is the rest of the file."""
    place = 2
    while True:
        # As the common decoder does, go over stray bytes between segments.
        start, body = _find_marker(data, place)
        marker = data[body - 1]
        if marker == _END:
            return
        if marker in _ALONE:
            place = body
            continue
        place = _segment_end(data, body)
        if marker == _SCAN:
            yield marker, b"", data[start:]
            return
        yield marker, data[body + 2 : place], data[start:place]


def _find_marker(data: bytes, place: int) -> tuple[int, int]:
    # In steps, between which other threads get their turn; a marker begins in one and may end in the next.
    for start in range(place, len(data), _STEP):
        marker = _MARKER.search(data, start, start + _STEP + 1)
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


def _frame(body: bytes, before: tuple[int, int] | None, limits: ImageLimits) -> tuple[int, int]:
    if before is not None or len(body) < 6:
        raise damaged("JPEG")
    height, width = struct.unpack_from(">HH", body, 1)
    limits.check_size(width, height)
    return width, height
