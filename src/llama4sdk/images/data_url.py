"""`data:` URLs, read as browsers read them (the Fetch standard's "data: URL processor", forgiving base64).

The content decides what an image is, never the label. Line breaks, blanks, parameters, escapes and missing padding are
taken; what is no base64 is refused.
"""

from __future__ import annotations

import binascii
import re
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from llama4sdk.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llama4sdk.image_limits import ImageLimits

_SCHEME = re.compile(r"[\s\x00-\x20]*data:", re.IGNORECASE)
_BASE64 = re.compile(r";[ \t\n\f\r]*base64[ \t\n\f\r]*\Z", re.IGNORECASE)
_BLANKS = b" \t\n\f\r"
_STEP = 1024 * 1024  # characters of base64, a multiple of 4
_LONG_HEAD = 4096  # characters


def is_data_url(source: str) -> bool:
    """Tell whether a string is a `data:` URL; blanks before it do not count."""
    return _SCHEME.match(source) is not None


def read_data_url(url: str, limits: ImageLimits) -> bytes:
    """Return the bytes that a `data:` URL holds.

    Raises:
        ImageError: It has no comma, its base64 is broken, or it holds too many bytes.
    """
    scheme = _SCHEME.match(url)
    start = scheme.end() if scheme else 0
    comma = url.find(",", start, start + _LONG_HEAD)
    if comma < 0:
        raise ImageError("A data: URL looks like data:image/png;base64,… and this one has no comma before its data.")
    # A fragment is no part of the data.
    text = url[comma + 1 :].partition("#")[0]
    if _BASE64.search(url, start, comma) is None:
        return _plain(text, limits)
    data = _ascii(text)
    if b"%" in data:
        data = unquote_to_bytes(data)
    data = data.translate(None, _BLANKS)
    # Four characters stand for three bytes: the size is known before anything is decoded.
    padding = 2 if data.endswith(b"==") else data.endswith(b"=")
    limits.check_bytes(len(data) * 3 // 4 - padding)
    return _read_base64(data)


def _plain(text: str, limits: ImageLimits) -> bytes:
    text = text.strip()
    limits.check_bytes(len(text) - 2 * text.count("%"))
    return unquote_to_bytes(text)


def _ascii(text: str) -> bytes:
    try:
        return text.encode("ascii")
    except UnicodeEncodeError:
        raise _no_base64() from None


def _read_base64(data: bytes) -> bytes:
    if len(data) % 4 == 0:
        data = data[:-2] + data[-2:].replace(b"==", b"").removesuffix(b"=")
    missing = -len(data) % 4
    if missing < 3 and not data.endswith(b"="):
        with suppress(ValueError):
            return b"".join(_parts(data + b"=" * missing))
    raise _no_base64()


def _no_base64() -> ImageError:
    return ImageError("The data URL's base64 is not valid: check its padding and alphabet.")


def _parts(data: bytes) -> Iterator[bytes]:
    # In steps, between which other threads get their turn.
    for start in range(0, len(data), _STEP):
        part = binascii.a2b_base64(data[start : start + _STEP], strict_mode=True)
        if len(part) < _STEP // 4 * 3 and start + _STEP < len(data):
            raise ValueError("padding before the end")
        yield part
