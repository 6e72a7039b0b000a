"""Streams and chats: the requests of a client that are one question each."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack, overload

import anyio

from llama4sdk.errors import InvalidRequest, OutputInvalid
from llama4sdk.events import Usage
from llama4sdk.keywords import explains_keywords
from llama4sdk.lifetime import Lifetime
from llama4sdk.messages import Image, Prompt, UserMessage, conversation
from llama4sdk.output import answer_form
from llama4sdk.request import Deadlines, Request, Sampling, ToolChoice
from llama4sdk.run import Limits, complaint
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
        return Stream(self.answers, request, form=form, owner=self._streams)

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
        messages = list(conversation(prompt))
        usage = Usage()
        until = _end_of(deadlines)
        for tries_left in range(limits.repair, -1, -1):
            stream = self.stream(
                messages,
                tools=tools,
                tool_choice=tool_choice,
                output=output,
                sampling=sampling,
                deadlines=_left(deadlines, until),
            )
            try:
                async with stream:
                    reply = await stream.result()
                return replace(reply, usage=usage + reply.usage) if usage.total_tokens else reply
            except OutputInvalid as error:
                if not tries_left:
                    raise
                usage += stream.snapshot.usage
                messages += complaint(error)
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
