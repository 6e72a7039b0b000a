"""The one EXIF entry that changes what an image shows: how the camera was held.

EXIF data is a TIFF header and a table of twelve-byte entries (CIPA DC-008, TIFF 6.0). Only the first table is
read, and whatever is damaged in it turns nothing.
"""

from __future__ import annotations

import struct

UPRIGHT = 1
_PREFIX = b"Exif\0\0"  # in JPEG files, and in some WEBP files
_ORIENTATION = 0x0112
_SHORT = 3  # the entry's type: 16 bits, unsigned
_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}


def orientation(exif: bytes) -> int:
    """Return the orientation that EXIF data asks for, from 1 to 8; 1 is upright."""
    tiff = exif.removeprefix(_PREFIX)
    order = _ORDERS.get(tiff[:4])
    if order is None:
        return UPRIGHT
    try:
        (table,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, table)
        for place in range(table + 2, table + 2 + 12 * count, 12):
            tag, kind, values, value = struct.unpack_from(f"{order}HHIH", tiff, place)
            if tag == _ORIENTATION:
                return value if kind == _SHORT and values == 1 and 1 <= value <= 8 else UPRIGHT
    except struct.error:  # the table reaches beyond the data
        pass
    return UPRIGHT
