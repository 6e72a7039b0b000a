"""Sessions: conversations whose keys and values stay cached, to be continued, forked, saved and restored."""

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
from llama4sdk.checks import shown
from llama4sdk.errors import CheckpointError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from llama4_local.cache.session_store import SessionCopy, SessionState
    from llama4_local.engine.request import EngineRequest
    from llama4_local.serving.engine_thread import EngineThread
    from llama4_local.serving.readiness import ServedModel
    from llama4_local.serving.session_file import SavedSession
    from llama4sdk.backend import Capabilities
    from llama4sdk.events import Event
    from llama4sdk.images import Tiles
    from llama4sdk.request import Request


class SessionHost(Host, Protocol):
    """The backend, as sessions use it."""

    @property
    def capabilities(self) -> Capabilities:
        """Its capabilities."""
        ...

    @property
    def folder(self) -> Path:
        """Its checkpoint folder."""
        ...

    def take_over(self, request: EngineRequest, key: object) -> None:
        """Pin under a key the pages that a finished request pinned."""
        ...

    def forget(self, key: object) -> bool:
        """Unpin the pages of a key; return False where the backend is closed and all pages are gone."""
        ...


@dataclass(frozen=True, slots=True)
class Turns:
    """The tokens of a conversation so far.

    Args:
        token_ids: The tokens, every turn with its end.
        tiles: The images among them.
        image_tokens: Image placeholders among the tokens.
        origin: Position of the first token, where it follows text that is not kept; a multiple of the chunk.
    """

    token_ids: tuple[int, ...] = ()
    tiles: tuple[Tiles, ...] = ()
    image_tokens: int = 0
    origin: int = 0


class Session:
    """A conversation whose keys and values stay cached.

    A request in a session brings only its new messages; when it is done, they and the answer belong to the session.
    A request that is left early changes nothing. One request at a time: for more, `fork`. The keys and values of
    the global layers take room in the cache until `aclose`.

    Args:
        host: The backend.
        turns: The conversation so far.
        cache_salt: Cached pages are shared under it.
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
        """The backend's."""
        return self._host.capabilities

    @property
    def tokens(self) -> int:
        """Tokens of the conversation so far."""
        return len(self._turns.token_ids)

    def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Return a block within which a request goes on from here; as `Backend.open`.

        Args:
            request: Its messages follow the conversation; the session's `cache_salt` replaces its own.
        """
        return _Turn(self, self._host, request)

    async def fork(self) -> Session:
        """Return a second session with the same conversation; the two share their cached pages.

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

        All tokens are saved, and keys and values up to the last chunk edge; those of later tokens are computed
        again after `restore`.

        Raises:
            CheckpointError: The file cannot be written.
            InvalidRequest: The session is closed, or just being answered.
        """
        place = _place(path)
        self.check_free()
        engine_thread, served = self._host.running()
        reader = object()
        try:
            copy = await engine_thread.ask(lambda engine: engine.session_store.read(self.key, reader))
            await _complete(engine_thread, copy)
        finally:
            engine_thread.post(lambda engine: engine.session_store.unpin(reader))
        state = copy.state
        await to_thread.run_sync(_write, place, self._host.folder, self._turns, state, served)

    async def aclose(self) -> None:
        """Unpin its pages; may be called twice, and after the backend was closed."""
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
        """The tokens that requests go on from."""
        turns = self._turns
        return Prefix(turns.token_ids, turns.tiles, turns.image_tokens, self._salt, self.key, turns.origin)

    def check_free(self) -> None:
        """Raise `InvalidRequest` unless the session can be used now."""
        if self._closed:
            raise InvalidRequest("This session is closed.")
        if self._busy:
            raise InvalidRequest("This session is being answered; wait for the end, or fork it before.")

    def occupy(self) -> None:
        """Reserve the session for one request."""
        self.check_free()
        self._busy = True

    def vacate(self) -> None:
        """Release the session after its request; one that was closed meanwhile is unpinned."""
        self._busy = False
        if self._closed:
            self._host.forget(self.key)

    def grow(self, engine_request: EngineRequest) -> None:
        """Add a finished request and its answer, and take over the pages that it pinned."""
        tokens = [*engine_request.token_ids, *engine_request.written]
        if engine_request.written:
            _, served = self._host.running()
            if engine_request.written[-1] not in served.config.generation.eos_token_ids:
                tokens.append(served.template.tokenizer.special("<|eot|>"))
        self._turns = Turns(tuple(tokens), engine_request.tiles, engine_request.image_tokens, engine_request.origin)
        self._host.take_over(engine_request, self.key)


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
    """Compute a request's messages, without an answer, and return their session."""
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
    saved = await to_thread.run_sync(_read, _place(path), host.folder, served)
    turns = Turns(saved.token_ids, saved.tiles, saved.image_tokens, saved.origin)
    # A salt of its own: keys and values from a file must not reach other requests.
    session = Session(host, turns, f"restored {token_hex(16)}")
    try:
        await _complete(
            engine_thread, await engine_thread.ask(lambda engine: engine.restore(session.prefix, saved.state))
        )
    except BaseException:
        await session.aclose()
        raise
    return session


def _place(path: str | os.PathLike[str]) -> Path:
    """Return a session's path, `~` expanded.

    Raises:
        InvalidRequest: It is no path, or one that no file may have.
    """
    try:
        name = os.path.expanduser(os.fsdecode(path))  # noqa: PTH111 - which never raises for want of a home
        possible = b"\0" not in os.fsencode(name)
    except (TypeError, UnicodeEncodeError):
        possible, name = False, ""
    if not possible:
        raise InvalidRequest(f"A session's path is text or a path without NUL characters; got {shown(path)}.")
    return Path(name)


async def _complete(engine_thread: EngineThread, copy: SessionCopy) -> None:
    """Copy part by part, so that the engine's steps go on meanwhile."""
    while await engine_thread.ask(lambda _: copy.advance()):
        pass


def _write(path: Path, folder: Path, turns: Turns, state: SessionState, served: ServedModel) -> None:
    from llama4_local.serving.session_file import SavedSession, write_session

    tiles = _still_needed(turns, state.keys.shape[1], served)
    saved = SavedSession(fingerprint(folder), turns.token_ids, turns.image_tokens, tiles, state, turns.origin)
    write_session(path, saved)


def _read(path: Path, folder: Path, served: ServedModel) -> SavedSession:
    from llama4_local.serving.session_file import read_session

    saved = read_session(path)
    problems: list[str] = []
    if saved.fingerprint != fingerprint(folder):
        problems.append(f"it belongs to another checkpoint than {folder.name}")
    if any(not 0 <= token < served.config.text.vocab_size for token in saved.token_ids):
        problems.append("it has tokens outside the vocabulary")
    problems += _image_problems(saved, served)
    if saved.origin % (served.config.text.chunk or 1):
        problems.append(
            f"it begins at position {saved.origin}, which is no edge of chunks of {served.config.text.chunk}"
        )
    if len(saved.token_ids) >= served.context:  # the kept tokens count, wherever in their text they stand
        problems.append(f"its {len(saved.token_ids)} tokens leave no room in the context of {served.context}")
    if problems:
        raise CheckpointError(path, problems)
    return saved


def _image_problems(saved: SavedSession, served: ServedModel) -> list[str]:
    """Compare the images of a file with its placeholders."""
    placeholder, vision = served.config.image_token_id, served.config.vision
    if vision is None or placeholder is None:
        return ["it has images, and the checkpoint has no image encoder"] if saved.tiles else []
    size = (vision.channels, vision.image_size, vision.image_size)
    problems = [
        f"image {number} has tiles of {image.levels.shape[1:]}, the checkpoint takes {size}"
        for number, image in enumerate(saved.tiles, start=1)
        if image.levels.size and image.levels.shape[1:] != size
    ]
    needed = sum(len(image.levels) for image in saved.tiles) * vision.patch_tokens
    if saved.token_ids.count(placeholder) != needed:
        problems.append(f"it has {saved.token_ids.count(placeholder)} image placeholders, its tiles need {needed}")
    return problems


def _still_needed(turns: Turns, edge: int, served: ServedModel) -> tuple[Tiles, ...]:
    """The images, without the pixels of those that lie within the first `edge` tokens."""
    from llama4_local.serving.session_file import without_pixels

    vision, placeholder = served.config.vision, served.config.image_token_id
    before = turns.token_ids[:edge].count(placeholder if placeholder is not None else -1)
    kept: list[Tiles] = []
    seen = 0
    for image in turns.tiles:
        seen += len(image.levels) * (vision.patch_tokens if vision else 0)
        kept.append(without_pixels(image) if seen <= before else image)
    return tuple(kept)
