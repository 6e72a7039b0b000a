"""Formats of images that are named in errors, by their first bytes, and the way from there to one that is read."""

from __future__ import annotations

import re

_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
_AVIF = frozenset({b"avif", b"avis"})
_MANY_BRANDS = 16  # compatible brands of an ISO file that are looked at
_LOOKED_AT = 1024  # bytes
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_IN_PILLOW = "open it with Pillow, and pass the PIL image"
_SAVE = "save it as PNG or JPEG"
_ADDRESS = "look at the address that it came from"
_OPENINGS = tuple(
    (re.compile(opening, re.DOTALL | re.IGNORECASE), name, way)
    for opening, name, way in (
        (rb"II[*+]\0|MM\0[*+]", "TIFF", _IN_PILLOW),
        (rb"BM", "BMP", _IN_PILLOW),
        (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "JPEG 2000", _IN_PILLOW),
        (rb"\0\0\x01\0.\0", "ICO", _IN_PILLOW),
        (rb"\0\0[\x02\x03\x0a\x0b]\0{5}", "TGA", _IN_PILLOW),
        (rb"P[1-7f]\s", "PNM", _IN_PILLOW),
        (rb"8BPS\0", "PSD", _IN_PILLOW),
        (rb"qoif", "QOI", _IN_PILLOW),
        (rb"icns", "ICNS", _IN_PILLOW),
        (rb"DDS\x20", "DDS", _IN_PILLOW),
        (rb"\x01\xda[\0\x01][\x01\x02]", "SGI", _IN_PILLOW),
        (rb"\x0a[\0\x02-\x05]\x01", "PCX", _IN_PILLOW),
        (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", _SAVE),
        (rb"v/1\x01|#\?R", "an image of high dynamic range", _SAVE),
        (rb"%(PDF-|!PS)", "PDF or PostScript", "render its pages, with pypdfium2 for one, and pass the PIL images"),
        (rb"\x1aE\xdf\xa3|RIFF....AVI ", "a video", "take a frame out of it"),
        (rb"data:", "a data: URL", "pass it as a string"),
        (rb"iVBORw0KGgo|/9j/[24]|R0lGOD[dl]|UklGR", "base64", "decode it, or put data:image/png;base64, before it"),
        (rb"\s*<(!DOCTYPE )?html", "a page of HTML", _ADDRESS),
        (rb"\s*<(svg|[?!].*?<svg)\b", "SVG", _SAVE),
        (rb"\s*[\[{]\s*[\"{\[]", "JSON", _ADDRESS),
    )
)


def remedy(data: bytes) -> str:
    """Return the kind of data that no reader takes, and how it becomes an image: `; it is TIFF: …`, or nothing."""
    brands = _brands(data)
    if brands & _AVIF:
        return f"; it is AVIF: {_IN_PILLOW}"
    if brands & _HEIC:
        return "; it is HEIC: pip install pillow-heif, and pass the PIL image"
    if brands:
        return "; it is a video: take a frame out of it"
    opening = data[:_LOOKED_AT].removeprefix(_BYTE_ORDER_MARK)
    return next((f"; it is {name}: {way}" for form, name, way in _OPENINGS if form.match(opening)), "")


def _brands(data: bytes) -> set[bytes]:
    """Return the brands of an ISO base media file (ISO 14496-12), the family that HEIC and AVIF belong to."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 16 + 4 * _MANY_BRANDS, len(data))
    return {data[8:12], *(data[place : place + 4] for place in range(16, end - 3, 4))}
