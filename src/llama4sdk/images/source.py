"""Where an image comes from: a path, bytes, a Pillow image, a data URL, or, when allowed, the web."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeGuard, cast

from llama4sdk.errors import ImageError, InvalidRequest, UrlBlocked
from llama4sdk.image_limits import DEFAULT_LIMITS, ImageLimits
from llama4sdk.images.data_url import is_data_url, read_data_url
from llama4sdk.images.decode import decode, to_rgb
from llama4sdk.images.other_formats import remedy

if TYPE_CHECKING:
    from PIL import Image

Source: TypeAlias = "str | bytes | bytearray | memoryview | os.PathLike[str] | Image.Image"

# A name with a colon is a path, unless slashes or one of these schemes make it a URL.
_URL = re.compile(r"[\s\x00-\x20]*(data(?=:)|https?(?=:)|file(?=:)|[a-z][a-z0-9+.\-]{1,30}(?=://))", re.IGNORECASE)
_SHOWN_PATH = 200  # characters


@dataclass(frozen=True, slots=True)
class _Reading:
    """A source and how it is read."""

    source: Source
    limits: ImageLimits
    fetch: bool
    orient: bool


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
            (whose own `fetch`, `orient` and `image_limits` then count).
        limits: Bounds on bytes and pixels, where a message part brings none of its own.
        fetch: Whether a web address may be fetched; even then only `load_async` does it.
        orient: Whether to apply the EXIF orientation.

    Raises:
        ImageError: The image cannot be read or is larger than allowed.
        UrlBlocked: A web address without `fetch=True`, or another kind of URL.
        InvalidRequest: A web address, allowed, but this function does not wait for the network.
    """
    reading = _reading(image, limits, fetch=fetch, orient=orient)
    if check_url(reading.source, fetch=reading.fetch):
        raise InvalidRequest("An image from the web takes the network: await load_async(…) or tile_async(…).")
    return _load_local(reading.source, reading.limits, reading.orient)


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

    reading = _reading(image, limits, fetch=fetch, orient=orient)
    source = reading.source
    if check_url(source, fetch=reading.fetch):
        from llama4sdk.images.fetch import fetch_image

        source = await fetch_image(source, max_bytes=reading.limits.max_bytes)
    return await to_thread.run_sync(_load_local, source, reading.limits, reading.orient)


def _reading(image: Source | ImagePart, limits: ImageLimits, *, fetch: bool, orient: bool) -> _Reading:
    """Return the source of an image and how to read it, out of a message part where it is one."""
    if _is_part(image):
        own: object = getattr(image, "image_limits", None)
        limits = own if isinstance(own, ImageLimits) else limits
        return _Reading(image.source, limits, image.fetch, image.orient)
    return _Reading(cast("Source", image), limits, fetch, orient)


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
    if isinstance(source, str) and is_data_url(source):
        return decode(read_data_url(source, limits), limits=limits, orient=orient)
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


def _read_file(path: str | os.PathLike[str], limits: ImageLimits) -> bytes:
    name = _name_of(path)
    try:
        file = Path(name)
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{_shown(name)} is not a file.")
        limits.check_bytes(status.st_size)
        with file.open("rb") as stream:
            data = stream.read(limits.max_bytes + 1)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        raise _unreadable(name) from None
    limits.check_bytes(len(data))
    return data


def _name_of(path: str | os.PathLike[str]) -> str:
    """Return a path as text, `~` expanded."""
    try:
        return os.path.expanduser(os.fsdecode(path))  # noqa: PTH111 - which never raises
    except Exception:  # noqa: BLE001 - a path of another library's may fail in any way
        raise ImageError(f"An object of the kind {type(path).__name__} gives no path.") from None


def _unreadable(name: str) -> ImageError:
    hint = remedy(name[:64].encode("utf-8", "replace")) or "; does the file exist?"
    return ImageError(f"No image can be read from {_shown(name)}{hint}{'' if hint.endswith('?') else '.'}")


def _shown(name: str) -> str:
    # A long "path" is more likely an image in base64 that lacks its data: prefix; it is not repeated.
    return repr(name) if len(name) <= _SHOWN_PATH else f"a path of {len(name)} characters"
