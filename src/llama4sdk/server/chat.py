"""`POST /v1/chat/completions`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llama4sdk.server.answering import replies_to, stream_answers, unquote
from llama4sdk.server.body import parsed
from llama4sdk.server.chat_body import ChatBody, ChatCall, chat_call
from llama4sdk.server.chunks import ChatChunks, Head
from llama4sdk.server.endpoint import Endpoint
from llama4sdk.server.failures import refused
from llama4sdk.server.whole import chat_answer, together

if TYPE_CHECKING:
    from llama4sdk.reply import Reply
    from llama4sdk.server.endpoint import Exchange


class ChatEndpoint(Endpoint):
    """Answers conversations."""

    async def answer(self, exchange: Exchange, body: bytes) -> None:
        """Answer a conversation, streamed or whole."""
        call = await parsed(body, ChatBody, lambda fields: chat_call(fields, self.serving.options))
        model = self.serving.named(call.model)
        asked = call.requests[0]
        if asked.answer_so_far and not self.serving.backend.capabilities.can_continue(asked):
            raise refused("The model behind this server does not go on with a given message.", "continue_final_message")
        if call.stream:
            await self._stream(exchange, call, model)
            return
        head = Head("chat.completion", "chatcmpl", exchange.request_id, model)
        replies = [_as_asked(reply, call) for reply in await replies_to(self.serving, call.requests)]
        usage = together([reply.usage for reply in replies], answers_per_prompt=len(replies))
        with_logprobs = call.requests[0].sampling.logprobs is not None
        await exchange.respond(chat_answer(head, replies, usage, with_logprobs=with_logprobs))

    async def _stream(self, exchange: Exchange, call: ChatCall, model: str) -> None:
        head = Head("chat.completion.chunk", "chatcmpl", exchange.request_id, model)
        await stream_answers(
            self.serving,
            exchange.stream,
            call.requests,
            [ChatChunks(head, index, counted=call.include_usage) for index in range(len(call.requests))],
            head,
            counted=call.include_usage,
            answers_per_prompt=len(call.requests),
            one_call=call.one_call,
            unquoted=bool(call.choices),
        )


def _as_asked(reply: Reply, call: ChatCall) -> Reply:
    text = unquote(reply.text) if call.choices else reply.text
    calls = reply.tool_calls[:1] if call.one_call else reply.tool_calls
    return replace(reply, text=text, tool_calls=calls)
