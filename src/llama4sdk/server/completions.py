"""`POST /v1/completions`: prompts without a template, with their own log-probabilities where asked for."""

from __future__ import annotations

from dataclasses import replace
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
from llama4sdk.server.prompt_report import PromptReport, prompt_fields
from llama4sdk.server.raw_prompts import RawPrompts
from llama4sdk.server.whole import completion_answer, together

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4sdk.events import TokenLogprob
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
        reports = await self._reports(call, prompts)
        if call.body.stream:
            await self._stream(exchange, call, head, requests, reports)
            return
        replies = await replies_to(self.serving, requests)
        usage = together([reply.usage for reply in replies], answers_per_prompt=call.body.choices)
        with_logprobs = call.body.logprobs is not None
        await exchange.respond(completion_answer(head, replies, reports, usage, with_logprobs=with_logprobs))

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
        reports: Sequence[PromptReport],
    ) -> None:
        counted = call.body.include_usage
        await stream_answers(
            self.serving,
            exchange.stream,
            requests,
            [CompletionChunks(head, index, counted=counted, echo=report.echo) for index, report in enumerate(reports)],
            head,
            counted=counted,
            answers_per_prompt=call.body.choices,
        )

    async def _prompts_alone(
        self, exchange: Exchange, call: CompletionCall, head: Head, prompts: Sequence[ReadPrompt]
    ) -> None:
        """Answer with the prompts themselves, nothing written behind them."""
        reports = await self._reports(call, prompts)
        usage = sum((Usage(prompt.tokens) for prompt in prompts), Usage())
        replies = [Reply(finish_reason="length") for _ in reports]
        with_logprobs = call.body.logprobs is not None
        if not call.body.stream:
            await exchange.respond(completion_answer(head, replies, reports, usage, with_logprobs=with_logprobs))
            return
        out, counted = exchange.stream, call.body.include_usage
        for index, report in enumerate(reports):
            chunks = CompletionChunks(head, index, counted=counted, echo=report.echo)
            await out.write(chunks.begin() + chunks.finish("length"))
        await out.write((usage_chunk(head, usage) if counted else b"") + DONE)
        await out.end()

    async def _reports(self, call: CompletionCall, prompts: Sequence[ReadPrompt]) -> list[PromptReport]:
        """Return for every answer what it repeats and reports of its prompt."""
        reports: list[PromptReport] = []
        for prompt in prompts:
            reports += [await self._report(call.body, prompt)] * call.body.choices
        return reports

    async def _report(self, body: CompletionBody, prompt: ReadPrompt) -> PromptReport:
        counts = [count for count in (body.prompt_logprobs, body.logprobs if body.echo else None) if count is not None]
        scores: tuple[TokenLogprob, ...] = ()
        if counts:
            backend = self.serving.backend
            if not isinstance(backend, ScoresPrompts):
                raise refused("The backend of this server scores no prompts; leave echo or logprobs out.", "echo")
            scores = await backend.score_prompt(prompt.raw, top=max(counts))
        own = [replace(token, top=token.top[: body.logprobs]) for token in scores[prompt.begins(scores) :]]
        return PromptReport(
            TextDelta(prompt.text, tuple(own) if body.logprobs is not None else ()) if body.echo else None,
            {} if body.prompt_logprobs is None else prompt_fields(scores, body.prompt_logprobs),
        )
