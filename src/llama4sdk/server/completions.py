"""`POST /v1/completions`: prompts without a template, with their own log-probabilities where asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4sdk.backend import ScoresPrompts
from llama4sdk.errors import InvalidRequest
from llama4sdk.events import TextDelta, Usage
from llama4sdk.reply import Reply
from llama4sdk.server.answering import replies_to, stream_answers
from llama4sdk.server.body import parsed
from llama4sdk.server.chunks import DONE, CompletionChunks, Head, usage_chunk
from llama4sdk.server.completion_body import CompletionBody, CompletionCall, completion_call
from llama4sdk.server.endpoint import Endpoint
from llama4sdk.server.failures import refused
from llama4sdk.server.raw_prompts import RawPrompts
from llama4sdk.server.whole import completion_answer, together

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4sdk.request import Request
    from llama4sdk.server.endpoint import Exchange
    from llama4sdk.server.raw_prompts import ReadPrompt


class CompletionEndpoint(Endpoint):
    """Completes prompts as they stand."""

    async def answer(self, exchange: Exchange, body: bytes) -> None:
        """Complete prompts, streamed or whole."""
        call = await parsed(body, CompletionBody, lambda fields: completion_call(fields, self.serving.options))
        model = self.serving.named(call.body.model)
        if not self.serving.backend.capabilities.raw_prompts:
            raise InvalidRequest("The backend of this server completes no raw prompts; use /v1/chat/completions.")
        raw = RawPrompts(self.serving.backend)
        prompts = [await raw.read(prompt, begin=call.body.add_special_tokens is not False) for prompt in call.prompts]
        requests = call.requests(self._raws(call, prompts), self.serving.options)
        head = Head("text_completion", "cmpl", exchange.request_id, model)
        if call.max_tokens == 0:
            await self._prompts_alone(exchange, call, head, prompts)
            return
        echoes = await self._echoes(call, prompts)
        if call.body.stream:
            await self._stream(exchange, call, head, requests, echoes)
            return
        replies = await replies_to(self.serving, requests)
        usage = together([reply.usage for reply in replies], answers_per_prompt=call.body.choices)
        with_logprobs = call.body.logprobs is not None
        await exchange.respond(completion_answer(head, replies, echoes, usage, with_logprobs=with_logprobs))

    def _raws(self, call: CompletionCall, prompts: Sequence[ReadPrompt]) -> list[str | tuple[int, ...]]:
        """Return the prompts as the backend gets them: token ids; under guards, which read text, the text."""
        if self.serving.answers is self.serving.backend:
            return [prompt.raw for prompt in prompts]
        if call.body.add_special_tokens is False:
            raise refused("Guards read prompts as text, which begins with the begin token.", "add_special_tokens")
        return list(call.prompts)

    async def _stream(
        self,
        exchange: Exchange,
        call: CompletionCall,
        head: Head,
        requests: Sequence[Request],
        echoes: Sequence[TextDelta | None],
    ) -> None:
        counted = call.body.include_usage
        await stream_answers(
            self.serving,
            exchange.stream,
            requests,
            [CompletionChunks(head, index, counted=counted, echo=echo) for index, echo in enumerate(echoes)],
            head,
            counted=counted,
            answers_per_prompt=call.body.choices,
        )

    async def _prompts_alone(
        self, exchange: Exchange, call: CompletionCall, head: Head, prompts: Sequence[ReadPrompt]
    ) -> None:
        """Answer with the prompts themselves, nothing written behind them."""
        echoes = await self._echoes(call, prompts)
        usage = sum((Usage(prompt.tokens) for prompt in prompts), Usage())
        replies = [Reply(finish_reason="length") for _ in echoes]
        with_logprobs = call.body.logprobs is not None
        if not call.body.stream:
            await exchange.respond(completion_answer(head, replies, echoes, usage, with_logprobs=with_logprobs))
            return
        out, counted = exchange.stream, call.body.include_usage
        for index, echo in enumerate(echoes):
            chunks = CompletionChunks(head, index, counted=counted, echo=echo)
            await out.write(chunks.begin() + chunks.finish("length"))
        await out.write((usage_chunk(head, usage) if counted else b"") + DONE)
        await out.end()

    async def _echoes(self, call: CompletionCall, prompts: Sequence[ReadPrompt]) -> list[TextDelta | None]:
        """Return for every answer the prompt that it repeats, with log-probabilities where asked for."""
        body = call.body
        if not body.echo:
            return [None for _ in prompts for _ in range(body.choices)]
        backend = self.serving.backend
        echoes: list[TextDelta | None] = []
        for prompt in prompts:
            scores = ()
            if body.logprobs is not None:
                if not isinstance(backend, ScoresPrompts):
                    raise refused("The backend of this server scores no prompts; leave echo or logprobs out.", "echo")
                scores = (await backend.score_prompt(prompt.raw, top=body.logprobs))[prompt.added :]
            echoes += [TextDelta(prompt.text, scores)] * body.choices
        return echoes
