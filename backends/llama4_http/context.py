"""The context in which one exchange with the server runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx

    from llama4_http.errors import Sent
    from llama4_http.network import Link
    from llama4_http.outgoing import Outgoing
    from llama4_http.profiles import Profile
    from llama4_http.settings import Settings
    from llama4sdk.events import Usage
    from llama4sdk.request import Request


class Server(NamedTuple):
    """The server, as far as it is known once a request was composed."""

    link: Link
    profile: Profile
    model: str


@dataclass(frozen=True, slots=True)
class ExchangeContext:
    """The parts of a backend that an exchange uses.

    Args:
        settings: The backend's options.
        check_usable: Raises `ServerFault` when the backend is closed or belongs to another event loop.
        sent: Returns the request id, the body and the key that errors must not show.
        compose: Returns the body and headers for a request.
        server: Returns the server's connections, profile and model; valid after `compose`.
        post: Returns the HTTP request for a composed one.
        count: Counts the tokens of prompt and answer; None without a tokenizer.
    """

    settings: Settings
    check_usable: Callable[[], None]
    sent: Callable[[str, bytes], Sent]
    compose: Callable[[Request], Awaitable[Outgoing]]
    server: Callable[[], Server]
    post: Callable[[Outgoing], httpx.Request]
    count: Callable[[Request, str], Awaitable[Usage]] | None
