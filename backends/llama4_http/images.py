"""Images as they travel: no larger than the model will see them, PNG or JPEG by size. Pure but for Pillow.

Llama 4 resizes every image to a canvas of tiles. Doing that before sending leaves the tiles of the grid
as they were and saves most of the upload; only the small global tile is then made from the scaled image
instead of the original. Images are only ever scaled down.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic_core import to_json

from llama4sdk.errors import ImageError
from llama4sdk.images import fitted_size, grid_for, load
from llama4sdk.images.data_url import is_data_url, read_data_url
from llama4sdk.images.tiling import MAX_TILES, TILE

if TYPE_CHECKING:
    from PIL import Image as Pillow

    from llama4_http.settings import Settings
    from llama4sdk.image_limits import ImageLimits
    from llama4sdk.messages import Image

Mime = Literal["image/png", "image/jpeg"]

ASSET_NAME = "image"
PNG_LIMIT = 512 * 1024  # bytes above which JPEG is tried, for an image that was no JPEG before
_QUALITIES = (92, 85, 75, 60)  # of JPEG; below, text in images suffers
_OPENINGS: tuple[tuple[bytes, Mime], ...] = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"))


@dataclass(frozen=True, slots=True)
class Packed:
    """An image ready to be sent.

    Args:
        mime: Its type.
        data: Its bytes.
        size: Width and height in pixels, as sent.
        original: Width and height in pixels, as handed in.
        prompt_tokens: Tokens that it takes in the prompt.
        file_bytes: Size of the handed-in file, where there was one; else the size of `data`.
    """

    mime: Mime
    data: bytes
    size: tuple[int, int]
    original: tuple[int, int]
    prompt_tokens: int
    file_bytes: int

    @property
    def url(self) -> str:
        """The image as a `data:` URL."""
        return f"data:{self.mime};base64,{base64.b64encode(self.data).decode('ascii')}"

    @property
    def url_bytes(self) -> int:
        """Length of its base64, in bytes."""
        return _base64_length(self.data)

    @property
    def saved_bytes(self) -> int:
        """Bytes saved against the file, before base64; never below 0."""
        return max(0, self.file_bytes - len(self.data))

    def __repr__(self) -> str:
        return f"Packed({self.mime!r}, {len(self.data)} bytes, size={self.size})"


def pack(image: Image, settings: Settings, *, max_inline: int | None = None) -> Packed:
    """Return an image in the form in which it is sent. Decodes and encodes: call it in a worker thread.

    Args:
        image: The image; no remote one.
        settings: Limits, tiles, and whether to scale.
        max_inline: Most bytes that its base64 may take; JPEG of falling quality is tried until it fits,
            and the smallest is returned where none does.

    Raises:
        ImageError: When it cannot be read.
        UrlBlocked: When it is a remote one.
    """
    return pack_read(
        load(image, limits=settings.image_limits), _file(image, settings.image_limits), settings, max_inline=max_inline
    )


def pack_read(image: Pillow.Image, file: bytes | None, settings: Settings, *, max_inline: int | None = None) -> Packed:
    """Return an image that was read already, with the file that it came from if there was one."""
    tile, max_tiles = settings.tile, settings.max_tiles
    width, height = image.size
    size = fitting(width, height, tile, max_tiles) if settings.fit_images else (width, height)
    scaled = _scaled(image, size)
    mime, data = (_untouched(file, image) if scaled is image else None) or _encode(scaled, _is_jpeg(file))
    if max_inline is not None and _base64_length(data) > max_inline:
        mime, data = _squeezed(scaled, max_inline)
    tokens = grid_for(width, height, tile, max_tiles).prompt_tokens
    return Packed(mime, data, size, (width, height), tokens, len(file or data))


def _file(image: Image, limits: ImageLimits) -> bytes | None:
    """Return the bytes of the image's file, which was read without an error before."""
    source = image.source
    if isinstance(source, bytes):
        return source
    if isinstance(source, str) and is_data_url(source):
        return read_data_url(source, image.image_limits or limits)
    return Path(source).read_bytes() if isinstance(source, str | PathLike) else None


def asset_request(pack: Packed) -> bytes:
    """Return the body that asks NVIDIA's catalog for a place to upload an image to."""
    return to_json({"contentType": pack.mime, "description": ASSET_NAME})


def fitting(width: int, height: int, tile: int = TILE, max_tiles: int = MAX_TILES) -> tuple[int, int]:
    """Return the size at which an image is sent: the model's own size for it, where that is smaller.

    A size whose own grid would be another one is not taken: then the tiles would differ.
    """
    grid = grid_for(width, height, tile, max_tiles)
    fitted = fitted_size(width, height, grid.rows, grid.cols, tile)
    if fitted[0] > width or fitted[1] > height or fitted == (width, height):
        return width, height
    again = grid_for(*fitted, tile, max_tiles)
    same = (again.rows, again.cols) == (grid.rows, grid.cols)
    same = same and fitted_size(*fitted, again.rows, again.cols, tile) == fitted
    return fitted if same else (width, height)


def _scaled(image: Pillow.Image, size: tuple[int, int]) -> Pillow.Image:
    from PIL.Image import Resampling

    # The resampling of the reference's own transform, so that its tiles come out the same.
    return image if image.size == size else image.resize(size, Resampling.BILINEAR)


def _untouched(file: bytes | None, image: Pillow.Image) -> tuple[Mime, bytes] | None:
    """Return the file itself where the server would read the very same pixels out of it."""
    for opening, mime in _OPENINGS:
        if file is not None and file.startswith(opening) and _same_pixels(file, image):
            return mime, file
    return None


def _same_pixels(file: bytes, image: Pillow.Image) -> bool:
    from PIL import Image

    # Only what no reader can read in two ways: no orientation, transparency, palette or deep colour.
    try:
        with Image.open(BytesIO(file), formats=("PNG", "JPEG")) as plain:
            orientation = plain.getexif().get(0x0112, 1)
            return (
                plain.mode == "RGB"
                and plain.size == image.size
                and orientation == 1
                and "transparency" not in plain.info
            )
    except Exception as error:
        raise ImageError("The image could not be read a second time.") from error


def _is_jpeg(file: bytes | None) -> bool:
    return file is not None and file.startswith(_OPENINGS[1][0])


def _encode(image: Pillow.Image, was_jpeg: bool) -> tuple[Mime, bytes]:
    png = _bytes(image, "PNG")
    if len(png) <= PNG_LIMIT and not was_jpeg:
        return "image/png", png
    jpeg = _bytes(image, "JPEG", _QUALITIES[0])
    return ("image/jpeg", jpeg) if len(jpeg) < len(png) else ("image/png", png)


def _squeezed(image: Pillow.Image, max_inline: int) -> tuple[Mime, bytes]:
    data = b""
    for quality in _QUALITIES:
        data = _bytes(image, "JPEG", quality)
        if _base64_length(data) <= max_inline:
            break
    return "image/jpeg", data


def _base64_length(data: bytes) -> int:
    return (len(data) + 2) // 3 * 4


def _bytes(image: Pillow.Image, form: Literal["PNG", "JPEG"], quality: int = 0) -> bytes:
    file = BytesIO()
    if form == "PNG":
        image.save(file, form, compress_level=6)
    else:
        image.save(file, form, quality=quality, subsampling=0)
    return file.getvalue()
