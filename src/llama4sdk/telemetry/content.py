"""Messages and replies → JSON as the GenAI conventions have it, for traces that are asked to hold content: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from llama4sdk.messages import AssistantMessage, Image, ToolMessage
from llama4sdk.surrogates import mended_value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llama4sdk.messages import Message
    from llama4sdk.reply import Reply
    from llama4sdk.request import Request
    from llama4sdk.telemetry.attributes import Attributes
    from llama4sdk.tool_call import ToolCall


def prompt_content(request: Request) -> Attributes:
    """Return a request's messages and tools."""
    if request.raw is not None:
        text = request.raw if isinstance(request.raw, str) else f"{len(request.raw)} token ids"
        messages = [{"role": "user", "parts": [_text(text)]}]
    else:
        messages = [{"role": message.role, "parts": _parts(message)} for message in request.messages]
    content: Attributes = {"gen_ai.input.messages": as_json(messages)}
    if request.tools:
        tools = [
            {"type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters}
            for tool in request.tools
        ]
        content["gen_ai.tool.definitions"] = as_json(tools)
    return content


def reply_content(reply: Reply) -> Attributes:
    """Return a reply's text and calls."""
    parts = [_text(reply.text)] if reply.text else []
    message = {"role": "assistant", "parts": [*parts, *_calls(reply.tool_calls)]}
    message["finish_reason"] = reply.finish_reason or "error"
    return {"gen_ai.output.messages": as_json([message])}


def as_json(value: object) -> str:
    """Return a value as JSON text; what has no form there as its own text."""
    return to_json(mended_value(value), fallback=str, inf_nan_mode="null").decode()


def _parts(message: Message) -> list[dict[str, Any]]:
    if isinstance(message, ToolMessage):
        return [{"type": "tool_call_response", "id": message.tool_call_id, "response": message.text}]
    parts = [_image(part) if isinstance(part, Image) else _text(part.text) for part in message.parts]
    return [*parts, *(_calls(message.tool_calls) if isinstance(message, AssistantMessage) else ())]


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "content": text}


def _image(image: Image) -> dict[str, Any]:
    """Return an image by its address; its bytes are never part of a trace."""
    return {"type": "uri", "modality": "image", "uri": image.url} if image.url else {"type": "image"}


def _calls(calls: Iterable[ToolCall]) -> list[dict[str, Any]]:
    return [{"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments} for call in calls]
