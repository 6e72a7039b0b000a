"""A kept session within limits: each of its turns waits as a request does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from llama4sdk.backend import Answers, Capabilities, KeptSession
    from llama4sdk.events import Event
    from llama4sdk.request import Request
    from llama4sdk.routing.limited_request import LimitedRequest


class Limits(Protocol):
    """Makes the block of a request that waits its turn."""

    def __call__(self, answers: Answers, request: Request, *, held: int) -> LimitedRequest:
        """Return the block; `held` are the tokens that a session holds."""
        ...


class LimitedSession:
    """A kept session whose turns keep to limits.

    Args:
        kept: The session that the backend keeps.
        limits: The limits.
    """

    def __init__(self, kept: KeptSession, limits: Limits) -> None:
        self._kept = kept
        self._limits = limits

    @property
    def capabilities(self) -> Capabilities:
        """The backend's."""
        return self._kept.capabilities

    @property
    def tokens(self) -> int:
        """Tokens of the conversation so far."""
        return self._kept.tokens

    def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Return a block within which a turn runs; it waits when its first event is asked for."""
        return self._limits(self._kept, request, held=self._kept.tokens)

    async def fork(self) -> LimitedSession:
        """Return a second session that was the same so far, under the same limits."""
        return LimitedSession(await self._kept.fork(), self._limits)

    async def save(self, path: str | os.PathLike[str]) -> None:
        """Write the session to a file; as `KeptSession.save`."""
        await self._kept.save(path)

    async def aclose(self) -> None:
        """Let go of what is kept."""
        await self._kept.aclose()
