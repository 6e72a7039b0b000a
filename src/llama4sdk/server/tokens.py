"""`POST /tokenize` and `POST /detokenize`: the model's tokenizer, as vLLM's server offers it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from llama4sdk.backend import Renders
from llama4sdk.errors import InvalidRequest
from llama4sdk.server.body import Body, parsed
from llama4sdk.server.chat_messages import messages_of
from llama4sdk.server.endpoint import Endpoint
from llama4sdk.server.failures import refused
from llama4sdk.server.raw_prompts import RawPrompts
from llama4sdk.tools import specs_of
from llama4sdk.worker_thread import run_in_daemon_thread

if TYPE_CHECKING:
    from llama4sdk.prompting import PromptTemplate
    from llama4sdk.server.endpoint import Exchange


class TokenizeBody(Body):
    """The fields of `POST /tokenize`: a prompt, or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(Body):
    """The fields of `POST /detokenize`."""

    model: str | None = None
    tokens: list[int]


class TokenizeEndpoint(Endpoint):
    """Answers with the token ids of a prompt or of a rendered conversation."""

    async def answer(self, exchange: Exchange, body: bytes) -> None:
        """Answer with ids, their number and the model's context."""
        fields = await parsed(body, TokenizeBody, lambda fields: fields)
        self.serving.named(fields.model)
        template = _template(self.serving.backend)
        ids = await self._ids(template, fields)
        strings = [template.tokenizer.decode([token]) for token in ids] if fields.return_token_strs else None
        answer = {
            "count": len(ids),
            "max_model_len": self.serving.backend.capabilities.context,
            "tokens": ids,
            "token_strs": strings,
        }
        await exchange.respond(to_json(answer))

    async def _ids(self, template: PromptTemplate, fields: TokenizeBody) -> list[int]:
        if (fields.prompt is None) == (fields.messages is None):
            raise refused("Give a prompt or messages.", "prompt", "invalid_value")
        if fields.messages is None:
            begin = fields.add_special_tokens is not False
            prompt = await RawPrompts(self.serving.backend).read(fields.prompt or "", begin=begin)
            return [] if isinstance(prompt.raw, str) else list(prompt.raw)
        messages = messages_of(fields.messages, remote_images=False)
        tools = specs_of(fields.tools or ())
        answer = fields.add_generation_prompt is not False
        rendered = await run_in_daemon_thread(lambda: template.render(messages, tools, answer=answer))
        return list(rendered.token_ids)


class DetokenizeEndpoint(Endpoint):
    """Answers with the text of token ids."""

    async def answer(self, exchange: Exchange, body: bytes) -> None:
        """Answer with the text."""
        fields = await parsed(body, DetokenizeBody, lambda fields: fields)
        self.serving.named(fields.model)
        text = await RawPrompts(self.serving.backend).text(fields.tokens)
        await exchange.respond(to_json({"prompt": text}))


def _template(backend: object) -> PromptTemplate:
    if not isinstance(backend, Renders):
        raise InvalidRequest("The backend of this server knows no tokenizer.")
    return backend.prompt_template
