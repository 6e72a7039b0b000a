"""Streams and chats: the requests of a client that are one question each."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, Unpack, overload

import anyio

from llama4sdk.errors import InvalidRequest, OutputInvalid
from llama4sdk.events import Usage
from llama4sdk.keywords import explains_keywords
from llama4sdk.lifetime import Lifetime
from llama4sdk.messages import Image, Prompt, UserMessage, conversation
from llama4sdk.output import answer_form
from llama4sdk.request import Deadlines, Request, Sampling, ToolChoice, raw_prompt
from llama4sdk.run import complaint
from llama4sdk.run_options import Limits
from llama4sdk.several import several
from llama4sdk.stream import Stream
from llama4sdk.tools import ToolLike, specs_of

if TYPE_CHECKING:
    import os
    import re
    from collections.abc import Sequence

    from typing_extensions import TypeForm

    from llama4sdk.options import ChatOptions, StreamOptions, T
    from llama4sdk.reply import Reply

ImageLike: TypeAlias = "Image | str | bytes | os.PathLike[str] | object"

_LEAST_LEFT = 0.001  # seconds of a total deadline that has passed


class _Options(TypedDict):
    tools: Sequence[ToolLike]
    tool_choice: ToolChoice
    output: object
    sampling: Sampling | None


class Chatting(Lifetime):
    """Asks a backend one question at a time, streamed or as a whole; what `Llama4` is built on."""

    @overload
    def stream(self, prompt: Prompt, *, output: None = None, **options: Unpack[StreamOptions]) -> Stream[None]: ...
    @overload
    def stream(self, prompt: Prompt, *, output: TypeForm[T], **options: Unpack[StreamOptions]) -> Stream[T]: ...
    @overload
    def stream(self, prompt: Prompt, *, output: re.Pattern[str], **options: Unpack[StreamOptions]) -> Stream[str]: ...
    @overload
    def stream(self, prompt: Prompt, *, output: object, **options: Unpack[StreamOptions]) -> Stream[Any]: ...
    @explains_keywords
    def stream(
        self,
        prompt: Prompt,
        *,
        tools: Sequence[ToolLike] = (),
        tool_choice: ToolChoice = "auto",
        output: object = None,
        sampling: Sampling | None = None,
        deadlines: Deadlines | None = None,
        priority: int = 0,
        cache_salt: str = "",
    ) -> Stream[Any]:
        """Return the request as a stream, to be entered with `async with`.

        Args:
            prompt: A string, a message, or a sequence of messages; dicts in the familiar chat form too.
            tools: Tools that the model may call: functions, `ToolSpec`, or the familiar dict form.
            tool_choice: `auto`, `none`, `required`, or a tool's name.
            output: The form of a typed answer: a pydantic model, a dataclass, a TypedDict, a Literal, lists
                and unions of these, or a JSON schema.
            sampling: How tokens are chosen.
            deadlines: How long each phase may take.
            priority: Larger goes first where the backend queues.
            cache_salt: Prompts share cached computation only with the same salt.

        Raises:
            InvalidRequest: When the request cannot be served as it stands.
        """
        self._check_open()
        form = answer_form(output)
        request = Request.of(
            prompt,
            tools=specs_of(tools),
            output=form and form.spec,
            tool_choice=tool_choice,
            sampling=sampling,
            deadlines=deadlines,
            priority=priority,
            cache_salt=cache_salt,
        )
        return Stream(self.answers, request, form=form, owner=self._streams, telemetry=self._telemetry)

    @overload
    async def chat(self, prompt: Prompt, *, output: None = None, **options: Unpack[ChatOptions]) -> Reply[None]: ...
    @overload
    async def chat(self, prompt: Prompt, *, output: TypeForm[T], **options: Unpack[ChatOptions]) -> Reply[T]: ...
    @overload
    async def chat(self, prompt: Prompt, *, output: re.Pattern[str], **options: Unpack[ChatOptions]) -> Reply[str]: ...
    @overload
    async def chat(self, prompt: Prompt, *, output: object = None, **options: Unpack[ChatOptions]) -> Reply[Any]: ...
    @explains_keywords
    async def chat(
        self,
        prompt: Prompt,
        *,
        tools: Sequence[ToolLike] = (),
        tool_choice: ToolChoice = "auto",
        output: object = None,
        repair: int = 0,
        sampling: Sampling | None = None,
        deadlines: Deadlines | None = None,
    ) -> Reply[Any]:
        """Ask, and wait for the whole reply; arguments as in `stream`.

        Args:
            prompt: See `stream`.
            tools: See `stream`.
            tool_choice: See `stream`.
            output: See `stream`.
            repair: How often the model may try again when its typed answer does not fit, with the problems in the
                prompt; 0 to 5. The reply's usage then counts all tries.
            sampling: See `stream`.
            deadlines: See `stream`.

        Raises:
            OutputInvalid: When the answer is complete and does not fit the type that was asked for.
            LlamaError: When the request fails.
        """
        limits = Limits(repair=repair)

        async def ask(sampling: Sampling | None) -> Reply[Any]:
            return await self._repaired(
                limits.repair,
                prompt,
                tools=tools,
                tool_choice=tool_choice,
                output=output,
                sampling=sampling,
                deadlines=deadlines,
            )

        return await several(ask, sampling)

    async def complete(
        self,
        prompt: str | Sequence[int],
        *,
        sampling: Sampling | None = None,
        deadlines: Deadlines | None = None,
        priority: int = 0,
        cache_salt: str = "",
    ) -> Reply[None]:
        """Let the model go on from a text or from token ids as they stand, without any template.

        Args:
            prompt: A text, in which the names of special tokens stand for these tokens, or token ids.
            sampling: How tokens are chosen.
            deadlines: How long each phase may take.
            priority: Larger goes first where the backend queues.
            cache_salt: Prompts share cached computation only with the same salt.

        Raises:
            InvalidRequest: When the backend completes no raw prompts, or the prompt is none.
            LlamaError: When the request fails.
        """
        self._check_open()
        if not self.capabilities.raw_prompts:
            raise InvalidRequest(
                f"The backend {self.capabilities.name!r} completes no raw prompts; use chat(), or a backend that "
                "does, such as Llama4('local').",
                backend=self.capabilities.name,
            )
        raw = raw_prompt(prompt)

        async def ask(sampling: Sampling | None) -> Reply[None]:
            request = Request(
                (),
                sampling=Sampling() if sampling is None else sampling,
                deadlines=Deadlines() if deadlines is None else deadlines,
                priority=priority,
                cache_salt=cache_salt,
                raw=raw,
            )
            async with Stream[None](self.answers, request, owner=self._streams, telemetry=self._telemetry) as stream:
                return await stream.result()

        return await several(ask, sampling)

    async def _repaired(
        self, repair: int, prompt: Prompt, *, deadlines: Deadlines | None, **options: Unpack[_Options]
    ) -> Reply[Any]:
        messages = list(conversation(prompt))
        usage = Usage()
        begun = anyio.current_time()
        until = _end_of(deadlines)
        for tries_left in range(repair, -1, -1):
            stream = self.stream(messages, deadlines=_left(deadlines, until), **options)
            try:
                async with stream:
                    reply = await stream.result()
            except OutputInvalid as error:
                if not tries_left:
                    raise
                usage += stream.snapshot.usage
                messages += complaint(error)
                continue
            if usage.total_tokens and reply.timing is not None:
                timing = replace(reply.timing, total=anyio.current_time() - begun)
                reply = replace(reply, usage=usage + reply.usage, timing=timing)
            return reply
        raise InvalidRequest("repair is not negative.")  # not reached: the last try returns or raises

    @explains_keywords
    async def vision(
        self,
        question: str,
        *images: ImageLike,
        sampling: Sampling | None = None,
        deadlines: Deadlines | None = None,
    ) -> Reply[None]:
        """Ask about one or more images; the model sees the images first, then the question.

        Args:
            question: What to ask.
            images: `Image`, or what an `Image` is made from: path, bytes, PIL image, data URL.
            sampling: How tokens are chosen.
            deadlines: How long each phase may take.

        Raises:
            InvalidRequest: Without an image, or for one that cannot be read.
            LlamaError: When the request fails.
        """
        if not images:
            raise InvalidRequest("vision() needs at least one image; for text alone there is chat().")
        parts = [image if isinstance(image, Image) else Image(image) for image in images]
        return await self.chat(UserMessage([*parts, question]), sampling=sampling, deadlines=deadlines)


def _end_of(deadlines: Deadlines | None) -> float:
    """Return when the total deadline of a call passes, on the event loop's clock."""
    total = deadlines.total if isinstance(deadlines, Deadlines) else None
    return math.inf if total is None else anyio.current_time() + total


def _left(deadlines: Deadlines | None, until: float) -> Deadlines | None:
    """Return the deadlines of another try within the same call."""
    if deadlines is None or until == math.inf:
        return deadlines
    return replace(deadlines, total=max(until - anyio.current_time(), _LEAST_LEFT))
