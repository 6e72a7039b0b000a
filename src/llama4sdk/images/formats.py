"""Which format an image has, by its first bytes: one of the four that are read, or one that an error names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4sdk.errors import ImageError
from llama4sdk.images import gif, jpeg, png, webp

if TYPE_CHECKING:
    from llama4sdk.images.container import Format

_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
_AVIF = frozenset({b"avif", b"avis"})
# Formats that Pillow itself reads, by their first bytes.
_OTHERS = (
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"BM", "BMP"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
)
_MANY_BRANDS = 16  # compatible brands of an ISO file that are looked at


def sniff(data: bytes) -> Format:
    """Tell the format of an image by its first bytes.

    Raises:
        ImageError: It is none of PNG, JPEG, WEBP and GIF; where it is a photograph's format, with the way out.
    """
    if data.startswith(png.SIGNATURE):
        return "PNG"
    if data.startswith(jpeg.SIGNATURE):
        return "JPEG"
    if data.startswith(gif.SIGNATURES):
        return "GIF"
    if webp.is_webp(data):
        return "WEBP"
    raise ImageError(f"The data is not an image in one of the formats PNG, JPEG, WEBP and GIF{_remedy(data)}.")


def _remedy(data: bytes) -> str:
    brands = _brands(data)
    if brands & _AVIF:
        return "; it is AVIF: open it with Pillow, and pass the PIL image"
    if brands & _HEIC:
        return "; it is HEIC: pip install pillow-heif, and pass the PIL image"
    for opening, name in _OTHERS:
        if data.startswith(opening):
            return f"; it is {name}: open it with Pillow, and pass the PIL image"
    return ""


def _brands(data: bytes) -> set[bytes]:
    """Return the brands of an ISO base media file (ISO 14496-12), the family that HEIC and AVIF belong to."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 16 + 4 * _MANY_BRANDS, len(data))
    return {data[8:12], *(data[place : place + 4] for place in range(16, end - 3, 4))}
