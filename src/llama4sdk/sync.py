"""The client without `async`, for scripts: the same calls, answered by an event loop in a thread of its own.

    from llama4sdk.sync import Llama4

    with Llama4() as llama:
        print(llama.chat("What is 17 + 25?"))
        with llama.stream("Tell me about yourself.") as stream:
            for text in stream.text():
                print(text, end="", flush=True)

Calls from several threads run side by side. Ctrl-C stops the request that is waited for.
"""

from __future__ import annotations

import atexit
import os
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack, overload
from weakref import ref

from llama4sdk.blocking import Blocking, Portal
from llama4sdk.bulk import Answered, Failed
from llama4sdk.client import Llama4 as AsyncLlama4
from llama4sdk.errors import InvalidRequest
from llama4sdk.events import Event
from llama4sdk.reply import Answer, Reply

if TYPE_CHECKING:
    import re
    from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    from typing_extensions import TypeForm

    from llama4sdk.backend import Backend, Capabilities
    from llama4sdk.chatting import ImageLike
    from llama4sdk.messages import Prompt
    from llama4sdk.options import ChatOptions, MapOptions, StreamOptions, T
    from llama4sdk.prompting import Rendered, TokenCount
    from llama4sdk.run import Run
    from llama4sdk.run_options import RunOptions
    from llama4sdk.sampling import Sampling
    from llama4sdk.stream import Stream as AsyncStream
    from llama4sdk.tools import ToolLike

    Prompts = Iterable[Prompt] | AsyncIterable[Prompt]

R = TypeVar("R")


class Llama4:
    """Talks to Llama 4, wherever it runs; arguments, results and errors as of `llama4sdk.Llama4`.

    Args:
        backend: As there.
        options: As there.
    """

    def __init__(self, backend: str | Backend | None = None, /, **options: Any) -> None:
        self._llama = AsyncLlama4(backend, **options)
        self._stack = ExitStack()
        self._portal: Portal | None = None

    def __enter__(self) -> Self:
        if self._portal is not None:
            raise InvalidRequest("A client is entered once; make another Llama4(…).")
        with ExitStack() as stack:
            portal = self._portal = Portal()
            stack.callback(portal.close)
            portal.call(self._llama.start)
            stack.callback(portal.call, self._llama.aclose)
            at_exit = partial(_close_at_exit, ref(self), os.getpid())
            atexit.register(at_exit)
            stack.callback(atexit.unregister, at_exit)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def backend(self) -> Backend:
        """The backend, which runs the model."""
        return self._llama.backend

    @property
    def capabilities(self) -> Capabilities:
        """The backend's capabilities."""
        return self._llama.capabilities

    @property
    def guard_counts(self) -> Mapping[tuple[str, str, str], int]:
        """How often each guard came to each result; as `llama4sdk.Llama4.guard_counts`."""
        return self._llama.guard_counts

    def ready(self) -> None:
        """Wait until the model is loaded."""
        self._entered.call(self._llama.ready)

    @overload
    def stream(self, prompt: Prompt, *, output: None = None, **options: Unpack[StreamOptions]) -> Stream[None]: ...
    @overload
    def stream(self, prompt: Prompt, *, output: TypeForm[T], **options: Unpack[StreamOptions]) -> Stream[T]: ...
    @overload
    def stream(self, prompt: Prompt, *, output: re.Pattern[str], **options: Unpack[StreamOptions]) -> Stream[str]: ...
    @overload
    def stream(self, prompt: Prompt, *, output: object, **options: Unpack[StreamOptions]) -> Stream[Any]: ...
    def stream(self, prompt: Prompt, **options: Any) -> Stream[Any]:
        """Return the request as a stream, to be entered with `with`."""
        return Stream(self._entered, partial(self._llama.stream, prompt, **options))

    @overload
    def chat(self, prompt: Prompt, *, output: None = None, **options: Unpack[ChatOptions]) -> Reply[None]: ...
    @overload
    def chat(self, prompt: Prompt, *, output: TypeForm[T], **options: Unpack[ChatOptions]) -> Reply[T]: ...
    @overload
    def chat(self, prompt: Prompt, *, output: re.Pattern[str], **options: Unpack[ChatOptions]) -> Reply[str]: ...
    @overload
    def chat(self, prompt: Prompt, *, output: object, **options: Unpack[ChatOptions]) -> Reply[Any]: ...
    def chat(self, prompt: Prompt, **options: Any) -> Reply[Any]:
        """Ask, and wait for the whole reply."""
        return self._entered.call(partial(self._llama.chat, prompt, **options))

    def vision(self, question: str, *images: ImageLike, sampling: Sampling | None = None) -> Reply[None]:
        """Ask about one or more images."""
        return self._entered.call(partial(self._llama.vision, question, *images, sampling=sampling))

    def complete(self, prompt: str | Sequence[int], *, sampling: Sampling | None = None) -> Reply[None]:
        """Let the model go on from a text or token ids, without any template."""
        return self._entered.call(partial(self._llama.complete, prompt, sampling=sampling))

    @overload
    def run(
        self, prompt: Prompt, *, tools: Sequence[ToolLike], output: None = None, **options: Unpack[RunOptions]
    ) -> Run[None]: ...
    @overload
    def run(
        self, prompt: Prompt, *, tools: Sequence[ToolLike], output: TypeForm[T], **options: Unpack[RunOptions]
    ) -> Run[T]: ...
    @overload
    def run(
        self, prompt: Prompt, *, tools: Sequence[ToolLike], output: re.Pattern[str], **options: Unpack[RunOptions]
    ) -> Run[str]: ...
    @overload
    def run(
        self, prompt: Prompt, *, tools: Sequence[ToolLike], output: object, **options: Unpack[RunOptions]
    ) -> Run[Any]: ...
    def run(self, prompt: Prompt, *, tools: Sequence[ToolLike], **options: Any) -> Run[Any]:
        """Answer with the help of tools."""
        return self._entered.call(partial(self._llama.run, prompt, tools=tools, **options))

    @overload
    def map(self, prompts: Prompts, *, output: None = None, **options: Unpack[MapOptions]) -> Bulk[None]: ...
    @overload
    def map(self, prompts: Prompts, *, output: TypeForm[T], **options: Unpack[MapOptions]) -> Bulk[T]: ...
    @overload
    def map(self, prompts: Prompts, *, output: re.Pattern[str], **options: Unpack[MapOptions]) -> Bulk[str]: ...
    @overload
    def map(self, prompts: Prompts, *, output: object, **options: Unpack[MapOptions]) -> Bulk[Any]: ...
    def map(self, prompts: Prompts, **options: Any) -> Bulk[Any]:
        """Ask many prompts, a bounded number at a time; return the work, to be entered with `with`."""
        return Bulk(self._entered, partial(self._llama.map, prompts, **options))

    def render(self, prompt: Prompt, *, tools: Sequence[ToolLike] = ()) -> Rendered:
        """Return the prompt as the model will read it."""
        return self._llama.render(prompt, tools=tools)

    def count(self, prompt: Prompt, *, tools: Sequence[ToolLike] = ()) -> TokenCount:
        """Return how many tokens the prompt takes."""
        return self._llama.count(prompt, tools=tools)

    @property
    def _entered(self) -> Portal:
        if self._portal is None:
            raise InvalidRequest("Enter the client first: with Llama4() as llama.")
        return self._portal


def _close_at_exit(client: ref[Llama4], process: int) -> None:
    """Close a client that the program left open, while its event loop still runs."""
    left_open = client()
    if left_open is not None and os.getpid() == process:
        left_open.__exit__(None, None, None)


class Stream(Blocking[Event], Generic[Answer]):
    """The events of one request, as `llama4sdk.Stream`."""

    _inner: AsyncStream[Answer]

    def text(self) -> Iterator[str]:
        """Return the text as it comes, in whole characters."""
        return self._portal.iterate(self._inner.text())

    def result(self) -> Reply[Answer]:
        """Wait for the end and return the whole reply."""
        return self._portal.call(self._inner.result)

    @property
    def snapshot(self) -> Reply[Any]:
        """The reply as far as it was read."""
        return self._inner.snapshot

    def cancel(self) -> None:
        """Stop, from any thread, and wait until what runs behind it has stopped."""
        self._portal.call(self._inner.cancel)


class Bulk(Blocking[Answered[Answer] | Failed[Answer]], Generic[Answer]):
    """The outcomes of bulk work, as `llama4sdk.bulk.Bulk`."""
