"""Sessions: conversations whose computation stays, to be gone on from, forked, saved and restored."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Protocol

import anyio
from anyio import to_thread

from llama4_local.checkpoint.fingerprint import fingerprint
from llama4_local.engine.request import Prefix
from llama4_local.serving.generation import Generation, Host
from llama4sdk.errors import CheckpointError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from llama4_local.cache.session_store import SessionState
    from llama4_local.engine.request import EngineRequest
    from llama4_local.serving.readiness import ServedModel
    from llama4_local.serving.session_file import SavedSession
    from llama4sdk.backend import Capabilities
    from llama4sdk.events import Event
    from llama4sdk.images import Tiles
    from llama4sdk.request import Request


class SessionHost(Host, Protocol):
    """What sessions need of their backend."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    @property
    def folder(self) -> Path:
        """Where its checkpoint is."""
        ...

    def forget(self, key: object) -> bool:
        """Let go of what is kept under a key; return False where the backend is closed and all is gone."""
        ...


@dataclass(frozen=True, slots=True)
class Turns:
    """What was said so far, as tokens.

    Args:
        token_ids: The tokens, every turn with its end.
        tiles: The images among them.
        image_tokens: Of the tokens, those that stand for images.
        origin: Position of the first token, where it goes on from text that is not kept; a multiple of the chunk.
    """

    token_ids: tuple[int, ...] = ()
    tiles: tuple[Tiles, ...] = ()
    image_tokens: int = 0
    origin: int = 0


class Session:
    """A conversation that stays computed.

    A request in a session brings only what is new; when it is done, its messages and the answer belong to
    the session. One request at a time: for more, `fork`. What is kept are keys and values of the global
    layers; they take room in the cache until `aclose`.

    Args:
        host: The backend.
        turns: What was said so far.
        cache_salt: Under which computation is shared.
    """

    def __init__(self, host: SessionHost, turns: Turns, cache_salt: str) -> None:
        self._host = host
        self._turns = turns
        self._salt = cache_salt
        self._busy = False
        self._closed = False
        self.key = object()

    @property
    def capabilities(self) -> Capabilities:
        """Those of the backend."""
        return self._host.capabilities

    @property
    def tokens(self) -> int:
        """How many tokens were said so far."""
        return len(self._turns.token_ids)

    def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Return a block within which a request goes on from here; as `Backend.open`.

        Args:
            request: Its messages are what is new; its `cache_salt` does not count, the session's does.
        """
        return _Turn(self, self._host, request)

    async def fork(self) -> Session:
        """Return a second session that was the same so far; the two share what is computed.

        Raises:
            InvalidRequest: The session is closed, or just being answered.
        """
        self.check_free()
        engine_thread, _ = self._host.running()
        twin = Session(self._host, self._turns, self._salt)
        try:
            await engine_thread.ask(lambda engine: engine.session_store.fork(self.key, twin.key))
        except BaseException:
            await twin.aclose()
            raise
        return twin

    async def save(self, path: str | os.PathLike[str]) -> None:
        """Write the session to a file, complete or not at all.

        Tokens are saved to the last, keys and values to the last chunk edge; what follows it is computed
        again after `restore`.

        Raises:
            CheckpointError: The file cannot be written.
            InvalidRequest: The session is closed, or just being answered.
        """
        self.check_free()
        engine_thread, served = self._host.running()
        state = await engine_thread.ask(lambda engine: engine.session_store.read(self.key))
        await to_thread.run_sync(_write, Path(path), self._host.folder, self._turns, state, served)

    async def aclose(self) -> None:
        """Let go of what is kept; may be called twice, and after the backend was closed."""
        self._closed = True
        self._host.forget(self.key)
        await anyio.lowlevel.checkpoint()

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        if not self._closed and self._host.forget(self.key):
            warn(f"{self!r} was dropped without aclose().", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        return f"<Session of {self.tokens} tokens>"

    @property
    def prefix(self) -> Prefix:
        """What requests go on from."""
        turns = self._turns
        return Prefix(turns.token_ids, turns.tiles, turns.image_tokens, self._salt, self.key, turns.origin)

    def check_free(self) -> None:
        """Raise `InvalidRequest` unless the session can be used now."""
        if self._closed:
            raise InvalidRequest("This session is closed.")
        if self._busy:
            raise InvalidRequest("This session is being answered; wait for the end, or fork it before.")

    def occupy(self) -> None:
        """Let one request have the session."""
        self.check_free()
        self._busy = True

    def vacate(self) -> None:
        """The request is over; what it may have kept of a session that was closed meanwhile is let go."""
        self._busy = False
        if self._closed:
            self._host.forget(self.key)

    def grow(self, engine_request: EngineRequest) -> None:
        """Add what a finished request brought, and its answer."""
        tokens = [*engine_request.token_ids, *engine_request.written]
        if engine_request.written:
            _, served = self._host.running()
            if engine_request.written[-1] not in served.config.generation.eos_token_ids:
                tokens.append(served.template.tokenizer.special("<|eot|>"))
        self._turns = Turns(tuple(tokens), engine_request.tiles, engine_request.image_tokens, engine_request.origin)


class _Turn(Generation):
    """A request in a session."""

    def __init__(self, session: Session, host: Host, request: Request, *, answers: bool = True) -> None:
        super().__init__(host, request, prefix=session.prefix, answers=answers, finished=session.grow)
        self._session = session
        self._occupies = False

    async def __aenter__(self) -> AsyncIterator[Event]:
        self._session.occupy()
        self._occupies = True
        try:
            return await super().__aenter__()
        except BaseException:
            self._stop()
            raise

    def _stop(self) -> None:
        super()._stop()
        if self._occupies:
            self._occupies = False
            self._session.vacate()


async def begin(host: SessionHost, request: Request) -> Session:
    """Compute a request's messages, without an answer, and return the session that keeps them."""
    session = Session(host, Turns(), request.cache_salt)
    try:
        async with _Turn(session, host, request, answers=False) as events:
            async for _ in events:
                pass
    except BaseException:
        await session.aclose()
        raise
    return session


async def restore(host: SessionHost, path: str | os.PathLike[str]) -> Session:
    """Return the session that a file holds.

    Raises:
        CheckpointError: The file cannot be read, is no session, or belongs to another checkpoint.
        Overloaded: The cache has no room for it.
    """
    engine_thread, served = host.running()
    saved = await to_thread.run_sync(_read, Path(path), host.folder, served)
    turns = Turns(saved.token_ids, saved.tiles, saved.image_tokens, saved.origin)
    # A salt of its own: what a file says was computed must not reach requests that did not ask for it.
    session = Session(host, turns, f"restored {token_hex(16)}")
    try:
        await engine_thread.ask(lambda engine: engine.restore(session.prefix, saved.state))
    except BaseException:
        await session.aclose()
        raise
    return session


def _write(path: Path, folder: Path, turns: Turns, state: SessionState, served: ServedModel) -> None:
    from llama4_local.serving.session_file import SavedSession, write_session

    tiles = _still_needed(turns, state.keys.shape[1], served)
    saved = SavedSession(fingerprint(folder), turns.token_ids, turns.image_tokens, tiles, state, turns.origin)
    try:
        write_session(path, saved)
    except OSError as error:
        raise CheckpointError(path, [f"the session cannot be written: {error.strerror}"]) from error


def _read(path: Path, folder: Path, served: ServedModel) -> SavedSession:
    from llama4_local.serving.session_file import read_session

    saved = read_session(path)
    problems: list[str] = []
    if saved.fingerprint != fingerprint(folder):
        problems.append(f"it belongs to another checkpoint than {folder.name}")
    if any(not 0 <= token < served.config.text.vocab_size for token in saved.token_ids):
        problems.append("it has tokens outside the vocabulary")
    if saved.origin % (served.config.text.chunk or 1):
        problems.append(
            f"it begins at position {saved.origin}, which is no edge of chunks of {served.config.text.chunk}"
        )
    if len(saved.token_ids) >= served.context:  # what is kept counts, wherever in its text it stands
        problems.append(f"its {len(saved.token_ids)} tokens leave no room in the context of {served.context}")
    if problems:
        raise CheckpointError(path, problems)
    return saved


def _still_needed(turns: Turns, edge: int, served: ServedModel) -> tuple[Tiles, ...]:
    """The images, without the pixels of those that end before the first `edge` tokens do."""
    from llama4_local.serving.session_file import without_pixels

    vision, placeholder = served.config.vision, served.config.image_token_id
    before = turns.token_ids[:edge].count(placeholder if placeholder is not None else -1)
    kept: list[Tiles] = []
    seen = 0
    for image in turns.tiles:
        seen += len(image.levels) * (vision.patch_tokens if vision else 0)
        kept.append(without_pixels(image) if seen <= before else image)
    return tuple(kept)
