"""Encoded images into RGB, within limits, whatever the bytes are.

Only PNG, JPEG, WEBP and GIF are read; of an animation, its first frame (of an animated PNG the still image
that a program without animation shows). Transparency lies over white. Orientation stored in EXIF is
applied, as a person sees the photo, unless told otherwise: Meta's reference does not apply it. CMYK turns
into RGB as Pillow converts it, colour profiles are ignored, deep levels become 8 bits (`levels.py`). No error
repeats a decoder's words.

A JPEG beyond the default limit of pixels, where the caller's limits allow it, is decoded at a half, a quarter or an
eighth of its size, so that it takes no more memory than one within the default; tiles show less than that anyway.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, assert_never

from llama4sdk.errors import ImageError
from llama4sdk.image_limits import DEFAULT_LIMITS, ImageLimits
from llama4sdk.images import gif, jpeg, png, webp
from llama4sdk.images.container import damaged
from llama4sdk.images.formats import sniff
from llama4sdk.images.jpeg import Feed
from llama4sdk.images.levels import to_grey
from llama4sdk.images.orientation import UPRIGHT, in_pillow, orientation

if TYPE_CHECKING:
    from PIL import Image
    from PIL.JpegImagePlugin import JpegImageFile

    from llama4sdk.images.container import Container

_WHITE = (255, 255, 255)


def inspect(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Container:
    """Walk an encoded image without decoding it, and return its size and what its first frame needs.

    Raises:
        ImageError: No such format, beyond the limits, cut off or damaged.
    """
    limits.check_bytes(len(data))
    match sniff(data):
        case "PNG":
            return png.inspect(data, limits)
        case "JPEG":
            return jpeg.inspect(data, limits)
        case "WEBP":
            return webp.inspect(data, limits)
        case "GIF":
            return gif.inspect(data, limits)
        case other:
            assert_never(other)


def decode(data: bytes, *, limits: ImageLimits = DEFAULT_LIMITS, orient: bool = True) -> Image.Image:
    """Decode the bytes of an image into an RGB image.

    Args:
        data: A PNG, JPEG, WEBP or GIF file.
        limits: Bounds on bytes and pixels, checked before decoding.
        orient: Whether to apply the EXIF orientation.

    Raises:
        ImageError: The image cannot be read, or is larger than allowed.
    """
    from PIL.Image import DecompressionBombError

    container = inspect(data, limits)
    try:
        image = _open(container)
        limits.check_size(*image.size)
        image.load()
        exif: object = container.exif or image.info.get("exif")
        turn = orientation(exif) if orient and isinstance(exif, bytes) else UPRIGHT
        return _turn(_flatten(image), turn)
    except ImageError:
        raise
    except DecompressionBombError:  # its reader of WEBP judges by a setting of the whole process
        raise ImageError(
            f"The image has {container.width}×{container.height} pixels, more than Pillow allows in this process; "
            "set PIL.Image.MAX_IMAGE_PIXELS = None where that many are meant."
        ) from None
    except Exception:  # noqa: BLE001 - decoders raise OSError, SyntaxError, struct.error, and more
        raise damaged(container.format) from None


def to_rgb(image: Image.Image, *, limits: ImageLimits = DEFAULT_LIMITS, orient: bool = True) -> Image.Image:
    """Bring a Pillow image of any mode to RGB; the image itself stays as it is.

    Raises:
        ImageError: It has no or too many pixels, or cannot be read or converted.
    """
    limits.check_size(*image.size)
    try:
        image.load()
        return _turn(_flatten(image), in_pillow(image) if orient else UPRIGHT)
    except Exception:  # noqa: BLE001 - as above, for a file that the caller's image still has to read
        raise ImageError(f"The image of mode {image.mode} could not be read or turned into RGB.") from None


def _open(container: Container) -> Image.Image:
    # The readers themselves, not Image.open: that one warns of pixels by a process-wide setting of its own.
    from PIL import GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

    file = BytesIO(container.data)
    match container.format:
        case "PNG":
            return PngImagePlugin.PngImageFile(file)
        case "JPEG":
            return _reduced(JpegImagePlugin.JpegImageFile(Feed(container.data, container.scan)))
        case "WEBP":
            return WebPImagePlugin.WebPImageFile(file)
        case "GIF":
            return GifImagePlugin.GifImageFile(file)
        case other:
            assert_never(other)


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return to_grey(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    from PIL import Image

    # Pillow turns grey with premultiplied alpha only into grey with alpha.
    clear = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    ground = Image.new("RGB", image.size, _WHITE)
    ground.paste(clear, mask=clear.getchannel("A"))
    return ground


def _reduced(image: JpegImageFile) -> Image.Image:
    width, height = image.size
    scale = next((n for n in (1, 2, 4) if width * height <= DEFAULT_LIMITS.max_pixels * n * n), 8)
    if scale > 1:
        image.draft(None, (max(1, width // scale), max(1, height // scale)))
    return image


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(orientation)
    return image if turn is None else image.transpose(turn)
