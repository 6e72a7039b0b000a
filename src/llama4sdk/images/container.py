"""The parts that four file formats share: a checked header, and errors for damage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llama4sdk.errors import ImageError

Format = Literal["PNG", "JPEG", "WEBP", "GIF"]


@dataclass(frozen=True, slots=True)
class Container:
    """A file whose structure was walked before a decoder sees it.

    Attributes:
        format: Which of the four it is.
        width: Pixels from left to right, as stored (no orientation applied).
        height: Pixels from top to bottom, as stored.
        data: The file with nothing but what its first image needs.
        exif: Its EXIF data, empty where there is none.
        scan: In a JPEG file, the place of its first scan.
    """

    format: Format
    width: int
    height: int
    data: bytes
    exif: bytes = b""
    scan: int = 0


def damaged(kind: Format) -> ImageError:
    """Return the error for data that breaks the rules of its format."""
    return ImageError(f"The image is not a valid {kind} file: its data is damaged.")


def truncated(kind: Format) -> ImageError:
    """Return the error for data that ends too early."""
    return ImageError(f"The {kind} image is cut off: part of its data is missing.")
