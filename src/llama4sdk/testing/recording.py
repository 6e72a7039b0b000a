"""Record what a backend answers, and replay it without the backend: event by event.

    recorder = Recorder(backend, "tests/recorded")     # asks `backend`, and writes down what it answers
    replay = Replay("tests/recorded")                  # answers the same requests from the files

A recording holds no prompt, no image and no key: requests are known by a digest of what was asked. What
the model wrote stands in it as it came.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import anyio
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from llama4sdk import errors
from llama4sdk.backend import Backend, Capabilities, keep_deadlines
from llama4sdk.errors import InvalidRequest, LlamaError, ServerFault
from llama4sdk.events import Event, Started
from llama4sdk.messages import Image, Message
from llama4sdk.reply import Reply

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from llama4sdk.request import Request

_CAPABILITIES = "capabilities.json"
_KINDS: Mapping[str, TypeAdapter[Any]] = {kind.__name__: TypeAdapter(kind) for kind in get_args(Event)}


class Recorder:
    """A backend around another one that writes down every answer, errors too.

    Args:
        backend: Who answers.
        folder: Where the recordings go; made when missing.
    """

    def __init__(self, backend: Backend, folder: str | PathLike[str]) -> None:
        self._backend = backend
        self._folder = Path(folder)
        self._seen: Counter[str] = Counter()

    @property
    def capabilities(self) -> Capabilities:
        """Those of the backend inside."""
        return self._backend.capabilities

    async def start(self) -> None:
        """Start the backend inside."""
        await self._backend.start()
        await self._write(_CAPABILITIES, asdict(replace(self.capabilities, server=None)))

    def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Run one request; see `Backend.open`. It is written down when its block is left."""
        return self._run(request)

    async def aclose(self) -> None:
        """Close the backend inside."""
        await self._backend.aclose()

    @asynccontextmanager
    async def _run(self, request: Request) -> AsyncGenerator[AsyncIterator[Event]]:
        digest = request_digest(request)
        number, self._seen[digest] = self._seen[digest], self._seen[digest] + 1
        tape = _Tape(anyio.current_time())
        try:
            async with self._backend.open(request) as events:
                yield tape.taking(events)
        finally:
            with anyio.CancelScope(shield=True):
                await self._write(f"{digest}-{number}.json", {"events": tape.events, "error": tape.error})

    async def _write(self, name: str, value: Any) -> None:
        await anyio.Path(self._folder).mkdir(parents=True, exist_ok=True)
        text = json.dumps(value, ensure_ascii=False, indent=1)
        await anyio.Path(self._folder / name).write_text(text + "\n", encoding="utf-8")


class Replay:
    """A backend that answers what was recorded; the n-th time as it was the n-th time.

    Args:
        folder: Where a `Recorder` wrote.
        timing: Whether to wait between events as it was then.

    Raises:
        InvalidRequest: When there is no recording.
    """

    def __init__(self, folder: str | PathLike[str], *, timing: bool = False) -> None:
        self._folder = Path(folder)
        self._timing = timing
        self._seen: Counter[str] = Counter()
        self._closed = False
        try:
            self._capabilities = Capabilities(**json.loads((self._folder / _CAPABILITIES).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            raise InvalidRequest(f"There is no recording in {self._folder}; make one with Recorder.") from None

    @property
    def capabilities(self) -> Capabilities:
        """Those of the backend that was recorded."""
        return self._capabilities

    async def start(self) -> None:
        """Do nothing: everything is there."""

    def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Replay one request; see `Backend.open`."""
        return self._run(request)

    async def aclose(self) -> None:
        """Answer no more."""
        self._closed = True

    @asynccontextmanager
    async def _run(self, request: Request) -> AsyncGenerator[AsyncIterator[Event]]:
        if self._closed:
            raise ServerFault("This replay is closed.", backend=self._capabilities.name, retryable=False)
        name = self._capabilities.name
        events = self._events(request)
        yield keep_deadlines(events, request.deadlines, backend=name, request_id=request.request_id)

    async def _events(self, request: Request) -> AsyncIterator[Event]:
        tape = await self._tape(request)
        begun = anyio.current_time()
        for seconds, kind, fields in tape["events"]:
            if self._timing:
                await anyio.sleep_until(begun + seconds)
            event = _KINDS[kind].validate_python(fields)
            yield replace(event, request_id=request.request_id) if isinstance(event, Started) else event
        if tape["error"] is not None:
            raise _error_of(tape["error"], request.request_id)

    async def _tape(self, request: Request) -> dict[str, Any]:
        digest = request_digest(request)
        number, self._seen[digest] = self._seen[digest], self._seen[digest] + 1
        for place in range(number, -1, -1):  # asked more often than recorded: the last answer again
            path = anyio.Path(self._folder / f"{digest}-{place}.json")
            if await path.exists():
                return json.loads(await path.read_text("utf-8"))
        raise InvalidRequest(f"This request was not recorded ({digest}); record it again with Recorder.")


class _Tape:
    """Events and the error of one request, as JSON, with seconds since its begin."""

    def __init__(self, begun: float) -> None:
        self._begun = begun
        self.events: list[tuple[float, str, Any]] = []
        self.error: dict[str, Any] | None = None

    async def taking(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        try:
            async for event in events:
                seconds = round(anyio.current_time() - self._begun, 6)
                self.events.append((seconds, type(event).__name__, to_jsonable_python(event)))
                yield event
        except LlamaError as error:
            self.error = _error_fields(error)
            raise


def request_digest(request: Request) -> str:
    """Return a digest of what is asked: messages, tools, answer form and sampling; 24 hexadecimal digits.

    Name, deadlines and priority of the request make no difference.
    """
    asked = {
        "messages": [_message_fields(message) for message in request.messages],
        "tools": to_jsonable_python(request.tools),
        "tool_choice": request.tool_choice,
        "output": to_jsonable_python(request.output),
        "sampling": to_jsonable_python(request.sampling),
        "cache_salt": request.cache_salt,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]


def _message_fields(message: Message) -> dict[str, Any]:
    fields = message.model_dump(exclude={"content"})
    fields["content"] = [_image_digest(part) if isinstance(part, Image) else part.text for part in message.parts]
    return fields


def _image_digest(image: Image) -> list[str]:
    source: Any = image.source
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, str) and (image.url is not None or source.startswith("data:")):
        data = source.encode()
    elif isinstance(source, str | PathLike):
        data = Path(source).read_bytes()
    else:
        data = source.tobytes()  # a Pillow image
    return ["image", hashlib.sha256(data).hexdigest()]


def _error_fields(error: LlamaError) -> dict[str, Any]:
    return {
        "class": type(error).__name__,
        "message": str(error),
        "fields": to_jsonable_python(vars(error), fallback=str),
    }


def _error_of(told: Mapping[str, Any], request_id: str) -> LlamaError:
    kind = getattr(errors, told["class"], None)
    if not (isinstance(kind, type) and issubclass(kind, LlamaError)):
        raise InvalidRequest("The recording holds an error that this version does not know; record it again.")
    error = kind.__new__(kind)
    error.args = (told["message"],)
    vars(error).update(told["fields"], request_id=request_id)
    partial = told["fields"].get("partial")
    if partial is not None:
        vars(error)["partial"] = TypeAdapter(Reply).validate_python(partial)
    return error
