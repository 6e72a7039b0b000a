"""The events of one request, read in the task that writes them out: no buffer and no task stands between."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Self

from llama4sdk.backend import Metered
from llama4sdk.errors import GuardBlocked, LlamaError, StreamInterrupted
from llama4sdk.events import Done, Usage
from llama4sdk.stream import one_error
from llama4sdk.tools.events import CallEvents, call_ids, may_call

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from types import TracebackType

    from llama4sdk.backend import Answers
    from llama4sdk.events import Event
    from llama4sdk.request import Request


class AnswerEvents(AbstractAsyncContextManager["AnswerEvents"]):
    """A block within which a request runs; `events` ends with `Done`, or raises one `LlamaError`.

    Where a guard blocks, the finish reason is `content_filter`, as in OpenAI's API.

    A `Stream` may be read from any task and has a buffer for that. The server enters, reads and leaves the backend's
    block in one task, which a client that leaves cancels; backends have buffers of their own.

    Args:
        answers: What runs it.
        request: The request.
    """

    def __init__(self, answers: Answers, request: Request) -> None:
        self._answers = answers
        self._request = request
        self._block = answers.open(request)
        reads = may_call(request) and not getattr(answers, "reads_calls", False)
        self._calls = CallEvents(request.tools, call_ids(request)) if reads else None
        self._events: AsyncIterator[Event]
        self._usage: Usage | None = None

    @property
    def usage(self) -> Usage:
        """Tokens that the request took, as far as they are known."""
        if self._usage is None and isinstance(self._block, Metered):
            return self._block.usage
        return self._usage or Usage()

    async def __aenter__(self) -> Self:
        try:
            self._events = await self._block.__aenter__()
        except Exception as error:  # noqa: BLE001 - the edge where every failure becomes one error
            one = self._one(error)
            raise one from one.__cause__
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._block.__aexit__(kind, error, trace)

    async def events(self) -> AsyncGenerator[Event]:
        """Yield the events, with tool calls read out of the text.

        Raises:
            LlamaError: The request fails, or ends without `Done`.
        """
        calls = self._calls
        try:
            async for event in self._events:
                if isinstance(event, Done):
                    self._usage = event.usage
                for made in (event,) if calls is None else calls.add(event):
                    yield made
                if isinstance(event, Done):
                    return
        except GuardBlocked:
            yield Done("content_filter", self.usage)
            return
        except Exception as error:  # noqa: BLE001 - as above
            one = self._one(error)
            raise one from one.__cause__
        raise StreamInterrupted("The backend ended its events without saying that the reply is complete.")

    def _one(self, error: Exception) -> LlamaError:
        return one_error(error, self._answers.capabilities.name, self._request.request_id)
