"""Which format an image has, by its first bytes: one of the four that are read, or one that an error names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4sdk.errors import ImageError
from llama4sdk.images import gif, jpeg, png, webp
from llama4sdk.images.other_formats import remedy

if TYPE_CHECKING:
    from llama4sdk.images.container import Format


def sniff(data: bytes) -> Format:
    """Tell the format of an image by its first bytes.

    Raises:
        ImageError: It is none of PNG, JPEG, WEBP and GIF; where it is something else that is known, with the way out.
    """
    if data.startswith(png.SIGNATURE):
        return "PNG"
    if data.startswith(jpeg.SIGNATURE):
        return "JPEG"
    if data.startswith(gif.SIGNATURES):
        return "GIF"
    if webp.is_webp(data):
        return "WEBP"
    raise ImageError(f"The data is not an image in one of the formats PNG, JPEG, WEBP and GIF{remedy(data)}.")
