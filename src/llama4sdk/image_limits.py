"""How large an image, and how many of them, a caller may hand in."""

from __future__ import annotations

from dataclasses import dataclass

from llama4sdk.checks import shown
from llama4sdk.errors import ImageError, InvalidRequest, TooManyImages

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Bounds that are checked before an image costs memory or time.

    Attributes:
        max_pixels: Width times height, read from the file's header before anything is decoded.
        max_bytes: Size of the encoded image.
        max_images: Images in one request.

    Raises:
        InvalidRequest: A bound is not a positive whole number.
    """

    max_pixels: int = 50_000_000
    max_bytes: int = 32 * _MIB
    max_images: int = 32

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_bytes", "max_images"):
            bound = getattr(self, name)
            if type(bound) is not int or bound < 1:
                raise InvalidRequest(f"{name} must be a positive whole number, got {shown(bound)}.")

    def check_size(self, width: int, height: int) -> None:
        """Raise `ImageError` for an image with no or with too many pixels."""
        if width < 1 or height < 1:
            raise ImageError(f"The image has no pixels ({width}×{height}).")
        if width * height > self.max_pixels:
            raise ImageError(
                f"The image has {width}×{height} pixels, more than the {self.max_pixels:,} allowed; "
                "make it smaller or raise ImageLimits.max_pixels: Image(…, image_limits=ImageLimits(max_pixels=…))."
            )

    def check_bytes(self, count: int) -> None:
        """Raise `ImageError` for encoded data that is empty or too large."""
        if count < 1:
            raise ImageError("The image is empty: it holds no bytes.")
        if count > self.max_bytes:
            raise ImageError(
                f"The image takes {count:,} bytes, more than the {self.max_bytes:,} allowed; "
                "make it smaller or raise ImageLimits.max_bytes: Image(…, image_limits=ImageLimits(max_bytes=…))."
            )

    def check_count(self, count: int) -> None:
        """Raise `TooManyImages` for more images than one request may hold."""
        if count > self.max_images:
            raise TooManyImages(f"The request holds {count} images; at most {self.max_images} are allowed.")


DEFAULT_LIMITS = ImageLimits()
