"""Images from the web, fetched before a prompt is rendered: rendering itself never waits for the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4sdk.messages import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4sdk.image_limits import ImageLimits
    from llama4sdk.messages import Message, Part


async def with_fetched_images(messages: Sequence[Message], limits: ImageLimits, max_images: int) -> tuple[Message, ...]:
    """Return the messages with the bytes of images whose http(s) URLs may be fetched in place of the URLs.

    An address that is named twice is fetched once.

    Args:
        messages: A conversation.
        limits: Bounds on the bytes of images that bring none of their own.
        max_images: Where there are more, none is fetched, and the renderer refuses them.

    Raises:
        UrlBlocked: An address leads into the network of this machine.
        Unreachable: A server does not answer.
        DeadlineExceeded: A server takes too long.
        ImageError: A server answers with something else than an image, or with too many bytes.
    """
    remote = [image for message in messages for image in message.images if image.fetch and image.url is not None]
    if not remote or sum(len(message.images) for message in messages) > max_images:
        return tuple(messages)
    fetched: dict[tuple[str, int], bytes] = {}
    for image in remote:
        key = _key(image, limits)
        if key not in fetched:
            fetched[key] = await _fetch(*key)
    return tuple(_message(message, fetched, limits) for message in messages)


async def _fetch(url: str, max_bytes: int) -> bytes:
    from llama4sdk.images import fetch

    return await fetch.fetch_image(url, max_bytes=max_bytes)


def _key(image: Image, limits: ImageLimits) -> tuple[str, int]:
    return image.url or "", (image.image_limits or limits).max_bytes


def _message(message: Message, fetched: dict[tuple[str, int], bytes], limits: ImageLimits) -> Message:
    if not any(_key(image, limits) in fetched and image.fetch for image in message.images):
        return message
    parts: list[Part] = []
    for part in message.parts:
        data = fetched.get(_key(part, limits)) if isinstance(part, Image) and part.fetch else None
        if isinstance(part, Image) and data is not None:
            part = Image(data, orient=part.orient, image_limits=part.image_limits)
        parts.append(part)
    return message.model_copy(update={"content": tuple(parts)})
