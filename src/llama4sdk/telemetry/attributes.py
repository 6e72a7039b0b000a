"""Requests and replies → attributes of OpenTelemetry's GenAI semantic conventions 1.41: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llama4sdk.backend import Capabilities
    from llama4sdk.events import Usage
    from llama4sdk.reply import Reply
    from llama4sdk.request import Request

Value: TypeAlias = "str | bool | int | float | Sequence[str]"
Attributes: TypeAlias = "dict[str, Value]"

SCHEMA = "https://opentelemetry.io/schemas/1.41.0"
OPERATION, PROVIDER, MODEL = "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model"
RESPONSE_MODEL, ERROR = "gen_ai.response.model", "error.type"


def operation_of(request: Request) -> str:
    """Return the operation's name: raw prompts are completed, conversations answered."""
    return "chat" if request.raw is None else "text_completion"


def common(operation: str, provider: str, capabilities: Capabilities) -> Attributes:
    """Return the attributes that spans and metrics of a request share."""
    attributes: Attributes = {OPERATION: operation, PROVIDER: provider}
    if capabilities.model:
        attributes[MODEL] = capabilities.model
    if capabilities.server is not None:
        attributes["server.address"], attributes["server.port"] = capabilities.server
    return attributes


def asked(request: Request, session: str) -> Attributes:
    """Return what a request asks for: its sampling and the form of its answer, never its content."""
    sampling = request.sampling
    given = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or None,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stop_sequences": sampling.stop_strings or None,
        "stream": True,
    }
    attributes: Attributes = {f"gen_ai.request.{name}": value for name, value in given.items() if value is not None}
    if request.output is not None:
        attributes["gen_ai.output.type"] = "json"
    if session:
        attributes["gen_ai.conversation.id"] = session
    return attributes


def answered(reply: Reply) -> Attributes:
    """Return what came back, its content aside."""
    attributes: Attributes = {"gen_ai.response.id": reply.request_id} if reply.request_id else {}
    if reply.model:
        attributes[RESPONSE_MODEL] = reply.model
    if reply.backend:
        attributes["llama4sdk.backend"] = reply.backend
    if reply.finish_reason is not None:
        attributes["gen_ai.response.finish_reasons"] = (reply.finish_reason,)
    return attributes | counted(reply.usage)


def counted(usage: Usage) -> Attributes:
    """Return token counts; none where none are known."""
    if not usage.total_tokens:
        return {}
    parts: Mapping[str, int] = {
        "cache_read.input_tokens": usage.cached_tokens,
        "image.input_tokens": usage.image_tokens,
    }
    return {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        **{f"gen_ai.usage.{name}": number for name, number in parts.items() if number},
    }
