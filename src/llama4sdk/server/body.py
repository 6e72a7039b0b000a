"""The body of a request: read within limits, parsed and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import anyio
from pydantic import BaseModel, ConfigDict, ValidationError

from llama4sdk.server.failures import ApiError, Failure, failure_of_body
from llama4sdk.worker_thread import run_in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.datastructures import Headers
    from starlette.types import Receive

    from llama4sdk.server.options import ServerOptions

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

_INLINE = 64 << 10  # bytes that are parsed on the event loop in a millisecond or two
_BOM = b"\xef\xbb\xbf"  # some clients begin UTF-8 with it
_CLOSE = {"connection": "close"}  # the rest of the body is not waited for
_LAST_BYTES = 5.0  # seconds in which a body that is too large may come to its end


class ClientGone(Exception):
    """The client closed the connection."""


class Body(BaseModel):
    """A JSON body; fields that are not declared are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


async def read_body(receive: Receive, headers: Headers, options: ServerOptions) -> bytes:
    """Return the bytes of a body.

    Raises:
        ApiError: Status 413, 415 or 408.
        ClientGone: The client left.
    """
    if "json" not in headers.get("content-type", "").partition(";")[0].lower():
        # A page of another origin cannot send this type without being asked for it (CORS).
        raise ApiError(Failure(415, "Send JSON with the header: Content-Type: application/json."))
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ApiError(Failure(415, "Send the body as it is, without Content-Encoding."))
    announced = headers.get("content-length", "")
    chunks: list[bytes] = []
    size = int(announced) if announced.isdigit() and len(announced) < 20 else 0
    fits = size <= options.max_body
    size = 0
    seconds = options.body_seconds if fits else _LAST_BYTES
    with anyio.move_on_after(seconds) as scope:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk, more = message.get("body", b""), message.get("more_body", False)
            size += len(chunk)
            if fits and size > options.max_body:
                fits = False
                chunks.clear()
                scope.deadline = anyio.current_time() + _LAST_BYTES
            if fits:
                chunks.append(chunk)
    if not fits:
        raise ApiError(
            Failure(
                413,
                f"The body of the request is larger than {options.max_body} bytes.",
                code="request_too_large",
                headers=_CLOSE,
            )
        )
    if scope.cancelled_caught:
        late = f"The body of the request did not come within {options.body_seconds:g} seconds."
        raise ApiError(Failure(408, late, headers=_CLOSE))
    return b"".join(chunks).removeprefix(_BOM)


async def parsed(body: bytes, kind: type[M], work: Callable[[M], T]) -> T:
    """Parse a body and do the work on it that the CPU does; large ones in a thread.

    Raises:
        ApiError: Status 400.
    """

    def parse() -> T:
        try:
            fields = kind.model_validate_json(body)
        except ValidationError as error:
            raise ApiError(failure_of_body(error)) from None
        return work(fields)

    return parse() if len(body) <= _INLINE else await run_in_daemon_thread(parse)
