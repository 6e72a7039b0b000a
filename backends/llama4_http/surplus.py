"""Bytes behind the end of an answer: a connection that holds some is not used again, whichever pool it comes from.

httpcore keeps such a connection, and the surplus becomes the answer to the next request. Bytes that are still in the
socket it notices by itself; those that its parser read already, it does not show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_LAYERS = ("_stream", "_httpcore_stream", "_connection")  # from httpx's stream down to httpcore's connection
_DEEPEST = 8


@runtime_checkable
class _Parser(Protocol):
    """The part of h11's connection that is used here."""

    @property
    def trailing_data(self) -> tuple[bytes, bool]: ...

    def send_failed(self) -> None: ...


class WatchedStream(httpx.AsyncByteStream):
    """The bytes of an answer; closing it closes the connection too where bytes follow the answer.

    Args:
        stream: The answer's stream, of any transport. Where no parser of HTTP/1.1 is behind it, it is left as it is.
    """

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._stream)

    async def aclose(self) -> None:
        """Close the answer, and with it the connection where bytes follow."""
        parser = _parser(self._stream)
        if parser is not None and parser.trailing_data[0]:
            parser.send_failed()  # httpcore closes a connection whose parser is in an error
        await self._stream.aclose()


def _parser(stream: object) -> _Parser | None:
    layer = stream
    for _ in range(_DEEPEST):
        parser = cast("object", getattr(layer, "_h11_state", None))
        if isinstance(parser, _Parser):
            return parser
        below = [getattr(layer, name) for name in _LAYERS if hasattr(layer, name)]
        if not below:
            break
        layer = cast("object", below[0])
    return None
