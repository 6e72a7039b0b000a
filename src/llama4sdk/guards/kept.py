"""A kept session under guards: a turn belongs to it only when every verdict has cleared it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import anyio

from llama4sdk.errors import InvalidRequest
from llama4sdk.events import Done, Event, Usage
from llama4sdk.guards.guarded import GuardedBlock

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator
    from types import TracebackType

    from llama4sdk.backend import Capabilities, KeptSession
    from llama4sdk.guards.guarding import Guarding
    from llama4sdk.messages import Message
    from llama4sdk.request import Request


class GuardedSession:
    """A kept session whose turns pass through guards.

    A backend commits a turn when its end is read, which is before the last verdict. So each turn runs on a fork, which
    shares what is computed, and takes the session's place when its end was released.

    Args:
        kept: The session that the backend keeps.
        guarding: The guards.
        said: The conversation so far, which guards see before each turn; unknown in a session from a file.
    """

    reads_calls = True

    def __init__(self, kept: KeptSession, guarding: Guarding, said: tuple[Message, ...] = ()) -> None:
        self._kept = kept
        self._guarding = guarding
        self._said = said
        self._busy = False

    @property
    def capabilities(self) -> Capabilities:
        """The backend's."""
        return self._kept.capabilities

    @property
    def tokens(self) -> int:
        """Tokens of the conversation so far."""
        return self._kept.tokens

    def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Return a block within which a turn runs; as `Backend.open`."""
        return _ForkedTurn(self, request)

    async def fork(self) -> GuardedSession:
        """Return a second session that was the same so far, under the same guards."""
        self._check_free()
        return GuardedSession(await self._kept.fork(), self._guarding, self._said)

    async def save(self, path: str | os.PathLike[str]) -> None:
        """Write the session to a file; as `KeptSession.save`."""
        self._check_free()
        await self._kept.save(path)

    async def aclose(self) -> None:
        """Let go of what is kept."""
        await self._kept.aclose()

    async def occupy(self) -> KeptSession:
        """Return a fork for the next turn; no other turn may begin before `settle`."""
        self._check_free()
        self._busy = True
        try:
            return await self._kept.fork()
        except BaseException:
            self._busy = False
            raise

    async def settle(self, fork: KeptSession, said: tuple[Message, ...] | None = None) -> None:
        """End a turn: the fork becomes the session, in which all this was said; without, it is dropped."""
        gone = fork
        if said is not None:
            gone, self._kept, self._said = self._kept, fork, said
        self._busy = False
        await gone.aclose()

    def block(self, fork: KeptSession, request: Request) -> GuardedBlock:
        """Return the block of a turn on a fork."""
        return GuardedBlock(fork, self._guarding, request, self._said)

    def _check_free(self) -> None:
        if self._busy:
            raise InvalidRequest("The session is being answered; wait for the end, or fork it before.")


class _ForkedTurn(AbstractAsyncContextManager["AsyncIterator[Event]"]):
    """The block of one turn."""

    def __init__(self, session: GuardedSession, request: Request) -> None:
        self._session = session
        self._request = request
        self._fork: KeptSession
        self._block: GuardedBlock | None = None
        self._complete = False

    @property
    def usage(self) -> Usage:
        return self._block.usage if self._block is not None else Usage()

    async def __aenter__(self) -> AsyncIterator[Event]:
        self._fork = await self._session.occupy()
        self._block = self._session.block(self._fork, self._request)
        try:
            await self._block.__aenter__()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._session.settle(self._fork)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._block is not None:
                await self._block.__aexit__(kind, error, trace)
        finally:
            with anyio.CancelScope(shield=True):
                said = self._block.said if self._block is not None and self._complete else None
                await self._session.settle(self._fork, said)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        if self._block is None:
            raise StopAsyncIteration
        event = await self._block.__anext__()
        self._complete = isinstance(event, Done)
        return event
