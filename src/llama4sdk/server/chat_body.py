"""A chat request: its fields, and the requests of the SDK that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from llama4sdk.errors import InvalidRequest
from llama4sdk.messages import AssistantMessage
from llama4sdk.request import OutputSpec, Request, ToolChoice, ToolSpec
from llama4sdk.server.chat_messages import messages_of
from llama4sdk.server.failures import refused
from llama4sdk.server.sampling_fields import SamplingFields
from llama4sdk.tools import specs_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llama4sdk.messages import Message
    from llama4sdk.server.options import ServerOptions

_NOT_HERE: Mapping[str, str] = {
    "audio": "this server answers in text only",
    "prediction": "this server takes no predicted answers; leave it out",
    "web_search_options": "this server searches nothing; declare a tool that does",
    "functions": "it is deprecated; send tools",
    "function_call": "it is deprecated; send tool_choice",
}
_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


class ChatBody(SamplingFields):
    """The fields of `POST /v1/chat/completions`."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    modalities: list[str] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    include_reasoning: bool | None = None
    # Of OpenAI's API, without a meaning here; null is what clients send for a field that they do not use.
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    functions: Any = None
    function_call: Any = None


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A chat request, ready to run.

    Args:
        model: The model that was asked for.
        requests: One for each answer.
        stream: Whether the answers are streamed.
        include_usage: Whether a stream ends with token counts.
        one_call: Whether only the first tool call of an answer counts.
        choices: The values of which each answer is one, unquoted; none for other answers.
    """

    model: str | None
    requests: tuple[Request, ...]
    stream: bool
    include_usage: bool
    one_call: bool
    choices: tuple[str, ...] = ()


def chat_call(body: ChatBody, options: ServerOptions) -> ChatCall:
    """Return the requests that a body stands for.

    Raises:
        ApiError: The body asks for something that is not there.
        InvalidRequest: The conversation cannot be answered.
    """
    _check(body, options)
    messages = messages_of(body.messages, remote_images=options.remote_images)
    begun = ""
    if body.continue_final_message:
        messages, begun = _beginning(messages)
    # A guard model judges a conversation that ends with the assistant's turn.
    part = "judged" if messages and isinstance(messages[-1], AssistantMessage) else "whole"
    output, choices = _output(body)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    tools, tool_choice = _tools(body)
    requests = tuple(
        Request(
            tuple(messages),
            tools,
            tool_choice,
            output,
            body.sampling(max_tokens=limit, logprobs=logprobs, choice=choice),
            options.deadlines,
            -(body.priority or 0),  # on the wire, smaller goes first
            body.cache_salt or "",
            part=part,
            answer_so_far=begun,
        )
        for choice in range(body.choices)
    )
    return ChatCall(
        body.model, requests, bool(body.stream), body.include_usage, body.parallel_tool_calls is False, choices
    )


def _beginning(messages: Sequence[Message]) -> tuple[Sequence[Message], str]:
    """Return the conversation without its last message, and that message as the beginning of the answer."""
    last = messages[-1] if messages else None
    if not isinstance(last, AssistantMessage) or last.tool_calls or not last.text:
        raise refused(
            "continue_final_message needs an assistant message at the end, with text and no calls.", "messages"
        )
    return messages[:-1], last.text


def _check(body: ChatBody, options: ServerOptions) -> None:
    if body.choices > options.max_choices:
        raise refused(f"Invalid value for 'n': at most {options.max_choices}.", "n", "invalid_value")
    for name, reason in _NOT_HERE.items():
        if getattr(body, name) is not None:
            raise refused(f"Unsupported parameter: '{name}': {reason}.", name, "unsupported_parameter")
    if body.top_logprobs and not body.logprobs:
        raise refused("top_logprobs needs logprobs to be true.", "top_logprobs", "invalid_value")
    if body.add_generation_prompt is False and not body.continue_final_message:
        raise refused("add_generation_prompt=false goes with continue_final_message=true.", "add_generation_prompt")
    if set(body.modalities or ()) - {"text"}:
        raise refused("This server answers in text only.", "modalities", "invalid_value")


def _tools(body: ChatBody) -> tuple[tuple[ToolSpec, ...], ToolChoice]:
    """Return the tools, those that a choice allows, and the choice among them."""
    try:
        tools = specs_of(body.tools or ())
    except InvalidRequest as error:
        raise refused(str(error), "tools", "invalid_value") from None
    match body.tool_choice:
        case None:
            return tools, "auto"
        case "auto" | "none" | "required" as choice:
            return tools, choice
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode, "tools": [*allowed]}}:
            names = {_function_name(tool) for tool in allowed}
            if names <= {tool.name for tool in tools}:
                return tuple(tool for tool in tools if tool.name in names), mode
            raise refused("Each of the allowed tools is one of 'tools'.", "tool_choice", "invalid_value")
        case choice:
            return tools, _function_name(choice)


def _function_name(choice: object) -> str:
    """Return the name of a function that a tool_choice stands for, in the form of either of OpenAI's APIs."""
    match choice:
        case {"function": {"name": str(name)}} | {"type": "function", "name": str(name)}:
            return name
        case _:
            raise refused(
                "tool_choice is none, auto, required, names a function, or allows some: "
                '{"type": "function", "function": {"name": "…"}}.',
                "tool_choice",
                "invalid_value",
            )


def _output(body: ChatBody) -> tuple[OutputSpec | None, tuple[str, ...]]:
    """Return the form of the answer, and the values of which it is one."""
    structured = {name: value for name, value in (body.structured_outputs or {}).items() if value is not None}
    if body.response_format is not None and structured:
        raise refused("Give response_format or structured_outputs, not both.", "structured_outputs", "invalid_value")
    if structured:
        return _structured(structured)
    return (_response_format(body.response_format), ()) if body.response_format is not None else (None, ())


def _response_format(given: Mapping[str, Any]) -> OutputSpec | None:
    match given.get("type"):
        case "text":
            return None
        case "json_object":
            return _spec(given.get("schema", _ANY_OBJECT), "answer", "response_format")
        case "json_schema":
            inner = given.get("json_schema", given)
            fields = cast("Mapping[str, Any]", inner) if isinstance(inner, dict) else {}
            if "schema" not in fields:
                raise refused("Missing required parameter: 'response_format.json_schema.schema'.", "response_format")
            return _spec(fields["schema"], fields.get("name", "answer"), "response_format")
        case _:
            raise refused(
                "Invalid value for 'response_format.type': it is text, json_object or json_schema.",
                "response_format",
                "invalid_value",
            )


def _structured(given: Mapping[str, Any]) -> tuple[OutputSpec, tuple[str, ...]]:
    match given:
        case {"json": schema} if len(given) == 1:
            return _spec(schema, "answer", "structured_outputs"), ()
        case {"json_object": True} if len(given) == 1:
            return _spec(_ANY_OBJECT, "answer", "structured_outputs"), ()
        case {"choice": [*values]} if len(given) == 1 and values and all(isinstance(value, str) for value in values):
            return _spec({"enum": values}, "answer", "structured_outputs"), tuple(cast("list[str]", values))
        case _:
            raise refused(
                "This server takes structured_outputs with one of json, json_object and choice.",
                "structured_outputs",
                "invalid_value",
            )


def _spec(schema: object, name: object, field: str) -> OutputSpec:
    try:
        return OutputSpec(cast("Mapping[str, Any]", schema), cast("str", name))
    except InvalidRequest as error:
        raise refused(str(error), field, "invalid_value") from None
