"""The one EXIF entry that changes what an image shows: how the camera was held.

EXIF data is a TIFF header and a table of twelve-byte entries (CIPA DC-008, TIFF 6.0). Only the first table is
read, and whatever is damaged in it turns nothing; Pillow's reader warns of it by the process's own filters.
"""

from __future__ import annotations

import binascii
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

UPRIGHT = 1
_PREFIX = b"Exif\0\0"  # in JPEG files, and in some WEBP files
_ORIENTATION = 0x0112
# The number belongs into 16 bits without a sign; cameras write it as other integers too, by their number in TIFF 6.0.
_INTEGERS = {3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
# Some write the constant 42 in the other byte order, which the first two letters tell.
_ORDERS = {b"II*\0": "<", b"II\0*": "<", b"MM\0*": ">", b"MM*\0": ">"}


def orientation(exif: bytes) -> int:
    """Return the orientation that EXIF data asks for, from 1 to 8; 1 is upright."""
    tiff = exif.removeprefix(_PREFIX).removeprefix(_PREFIX)  # some programs write it twice
    order = _ORDERS.get(tiff[:4])
    if order is None:
        return UPRIGHT
    try:
        (table,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, table)
        for place in range(table + 2, table + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(f"{order}HHI", tiff, place)
            if tag == _ORIENTATION and values and kind in _INTEGERS:
                form = order + _INTEGERS[kind]
                inside = values * struct.calcsize(form) <= 4
                where = place + 8 if inside else struct.unpack_from(f"{order}I", tiff, place + 8)[0]
                (value,) = struct.unpack_from(form, tiff, where)
                return value if 1 <= value <= 8 else UPRIGHT
    except struct.error:  # the table reaches beyond the data
        pass
    return UPRIGHT


def in_pillow(image: Image.Image) -> int:
    """Return the orientation that a Pillow image still asks for: in its EXIF data, or in the raw profile of a PNG."""
    exif: object = image.info.get("exif")
    if isinstance(exif, bytes):
        return orientation(exif)
    for name in ("Raw profile type exif", "Raw profile type APP1"):
        profile: object = image.info.get(name)
        if isinstance(profile, str):
            return orientation(from_raw_profile(profile.encode("latin-1", "replace")))
    return UPRIGHT


def from_raw_profile(text: bytes) -> bytes:
    """Return the EXIF data in a raw profile as ImageMagick writes it into a PNG's text, empty where there is none.

    Args:
        text: An empty line, a line with the profile's name, one with its length, and lines of hexadecimal digits.
    """
    lines = text.split(b"\n")
    try:
        return binascii.unhexlify(b"".join(b"".join(lines[3:]).split()))
    except binascii.Error:
        return b""
