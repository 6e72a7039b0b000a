"""Where an image comes from: a path, bytes, a Pillow image, a data URL, or, when allowed, the web."""

from __future__ import annotations

import binascii
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeGuard, cast

from llama4sdk.errors import ImageError, InvalidRequest, UrlBlocked
from llama4sdk.images.decode import decode, sniff, to_rgb
from llama4sdk.images.limits import DEFAULT_LIMITS, ImageLimits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

Source: TypeAlias = "str | bytes | bytearray | memoryview | os.PathLike[str] | Image.Image"

# A name with a colon is a path, unless slashes or one of these schemes make it a URL.
_URL = re.compile(r"\s*(data(?=:)|https?(?=:)|file(?=:)|[a-z][a-z0-9+.\-]{1,30}(?=://))", re.IGNORECASE)
_DATA_URL = re.compile(r"data:image/(png|jpeg|jpg|webp|gif);base64,", re.IGNORECASE)
_STEP = 1024 * 1024  # characters of base64, a multiple of 4
_SHOWN_PATH = 200  # characters


class ImagePart(Protocol):
    """A message part that holds an image: its source and how to read it."""

    @property
    def source(self) -> Source:
        """See `Image`."""
        ...

    @property
    def fetch(self) -> bool:
        """See `Image`."""
        ...

    @property
    def orient(self) -> bool:
        """See `Image`."""
        ...


def load(
    image: Source | ImagePart,
    *,
    limits: ImageLimits = DEFAULT_LIMITS,
    fetch: bool = False,
    orient: bool = True,
) -> Image.Image:
    """Read an image from this machine into an RGB image.

    Args:
        image: A path, the bytes of a file, a Pillow image, a data URL, or a message part holding one of these
            (whose own `fetch` and `orient` then count).
        limits: Bounds on bytes and pixels.
        fetch: Whether a web address may be fetched; even then only `load_async` does it.
        orient: Whether to apply the EXIF orientation.

    Raises:
        ImageError: The image cannot be read or is larger than allowed.
        UrlBlocked: A web address without `fetch=True`, or another kind of URL.
        InvalidRequest: A web address, allowed, but this function does not wait for the network.
    """
    source, fetch, orient = unwrap(image, fetch=fetch, orient=orient)
    if check_url(source, fetch=fetch):
        raise InvalidRequest("An image from the web takes the network: await load_async(…) or tile_async(…).")
    return _load_local(source, limits, orient)


async def load_async(
    image: Source | ImagePart,
    *,
    limits: ImageLimits = DEFAULT_LIMITS,
    fetch: bool = False,
    orient: bool = True,
) -> Image.Image:
    """Read an image as `load` does, off the event loop, and from the web where `fetch` allows it.

    Raises:
        ImageError: The image cannot be read or is larger than allowed.
        UrlBlocked: The web was not allowed, or the address may not be reached.
        Unreachable: The web server does not answer.
    """
    from anyio import to_thread

    source, fetch, orient = unwrap(image, fetch=fetch, orient=orient)
    if check_url(source, fetch=fetch):
        from llama4sdk.images.fetch import fetch_image

        source = await fetch_image(source, max_bytes=limits.max_bytes)
    return await to_thread.run_sync(_load_local, source, limits, orient)


def unwrap(image: Source | ImagePart, *, fetch: bool, orient: bool) -> tuple[Source, bool, bool]:
    """Return the source of an image and how to read it, out of a message part where it is one."""
    if _is_part(image):
        return image.source, image.fetch, image.orient
    return cast("Source", image), fetch, orient


def check_url(source: Source, *, fetch: bool) -> TypeGuard[str]:
    """Tell whether a source is a web address.

    Raises:
        UrlBlocked: It is one that the caller did not allow, or a URL that is never read.
    """
    match = _URL.match(source) if isinstance(source, str) else None
    scheme = match[1].lower() if match else ""
    if scheme in ("", "data"):
        return False
    if scheme not in ("http", "https"):
        raise UrlBlocked(f"Images are not read from {scheme}: URLs; pass a path, bytes or a data: URL.")
    if not fetch:
        raise UrlBlocked("Web addresses are not fetched by default; pass fetch=True to allow this one.")
    return True


def _is_part(image: Source | ImagePart) -> TypeGuard[ImagePart]:
    return all(hasattr(image, name) for name in ("source", "fetch", "orient"))


def _load_local(source: Source, limits: ImageLimits, orient: bool) -> Image.Image:
    if isinstance(source, str) and source[:5].lower() == "data:":
        return decode(_read_data_url(source, limits), limits=limits, orient=orient)
    if isinstance(source, bytes | bytearray | memoryview):
        return decode(bytes(source), limits=limits, orient=orient)
    if isinstance(source, str | os.PathLike):
        return decode(_read_file(source, limits), limits=limits, orient=orient)
    return _load_pillow(source, limits, orient)


def _load_pillow(source: object, limits: ImageLimits, orient: bool) -> Image.Image:
    from PIL import Image

    if isinstance(source, Image.Image):
        return to_rgb(source, limits=limits, orient=orient)
    raise ImageError(
        f"An image cannot be read from {type(source).__name__}; pass a path, bytes, a Pillow image or a data: URL."
    )


def _read_data_url(url: str, limits: ImageLimits) -> bytes:
    head = _DATA_URL.match(url)
    if head is None:
        raise ImageError("A data URL must begin with data:image/png;base64, (or jpeg, webp, gif).")
    # Four characters stand for three bytes: the size is known before anything is decoded.
    padding = url[-4:].count("=")
    limits.check_bytes((len(url) - head.end()) * 3 // 4 - min(padding, 2))
    data = _read_base64(url[head.end() :], padding)
    named = head[1].upper().replace("JPG", "JPEG")
    if (actual := sniff(data)) != named:
        raise ImageError(f"The data URL says {named}, but its data is {actual}.")
    return data


def _read_base64(text: str, padding: int) -> bytes:
    # Python's strict mode lets superfluous padding pass.
    if len(text) % 4 == 0 and padding <= 2:
        with suppress(ValueError):
            return b"".join(_base64_parts(text))
    raise ImageError("The data URL's base64 is not valid: check its padding and alphabet.")


def _base64_parts(text: str) -> Iterator[bytes]:
    # In steps, between which other threads get their turn.
    for start in range(0, len(text), _STEP):
        part = binascii.a2b_base64(text[start : start + _STEP].encode("ascii"), strict_mode=True)
        if len(part) < _STEP // 4 * 3 and start + _STEP < len(text):
            raise ValueError("padding before the end")
        yield part


def _read_file(path: str | os.PathLike[str], limits: ImageLimits) -> bytes:
    file = Path(path)
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{_shown(path)} is not a file.")
        limits.check_bytes(status.st_size)
        with file.open("rb") as stream:
            data = stream.read(limits.max_bytes + 1)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        raise ImageError(f"No image can be read from {_shown(path)}; does the file exist?") from None
    limits.check_bytes(len(data))
    return data


def _shown(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    # A long "path" is more likely an image in base64 that lacks its data: prefix; it is not repeated.
    return repr(name) if len(name) <= _SHOWN_PATH else f"a path of {len(name)} characters"
