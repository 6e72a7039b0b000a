"""A request → the JSON that a server of a given profile takes: pure.

A choice that the server has no field for is refused with `InvalidRequest`, never dropped; one that changes nothing,
as `top_k=0`, is left out there. Tool results carry the id of their call, see `call_ids`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

from pydantic_core import to_json

from llama4_http.begun_answer import continued
from llama4_http.call_ids import CallIds
from llama4sdk.errors import InvalidRequest
from llama4sdk.messages import AssistantMessage, Image, Message, SystemMessage, ToolMessage, UserMessage
from llama4sdk.prompting.special_tokens import BEGIN_OF_TEXT
from llama4sdk.prompting.tool_format import ToolsPlace, with_declarations, write_calls
from llama4sdk.surrogates import mended_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llama4_http.profiles import Profile
    from llama4sdk.request import OutputSpec, Request, Sampling, ToolChoice

# Fields of Sampling that every server takes under the same name.
_COMMON = ("temperature", "top_p", "max_tokens")
_EXTRA = ("top_k", "min_p", "min_tokens", "seed", "repetition_penalty", "presence_penalty", "frequency_penalty")
# Values that switch a choice off, so that a server without its field gives the same answer.
_OFF: Mapping[str, float] = {
    "top_k": 0,
    "min_p": 0.0,
    "min_tokens": 0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
_NULL_IS_NO_LIMIT = frozenset({"llama4sdk", "vllm", "sglang", "nim"})
_RENAMED = {"llamacpp": {"repetition_penalty": "repeat_penalty"}}


def chat_body(
    request: Request,
    profile: Profile,
    *,
    model: str,
    images: Sequence[str] = (),
    prefill: str = "",
    tools_in: ToolsPlace = "system",
    show_schema: bool = True,
    return_prompt_ids: bool = False,
    input_ids: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Return the body for `/chat/completions`.

    Args:
        request: The request.
        profile: The server's kind.
        model: The model's name there.
        images: A URL for each image of the messages, in order.
        prefill: Words with which the answer begins.
        tools_in: Where tools and answer form are declared, for servers that have no field for them.
        show_schema: Whether the prompt shows the schema of a typed answer, besides the field for it.
        return_prompt_ids: Whether to ask for the prompt's token ids.
        input_ids: The prompt as token ids, for servers that take them here.

    Raises:
        InvalidRequest: For a choice that the server has no field for.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": _messages(request, profile, images, tools_in, show_schema),
        "stream": True,
    }
    body |= _sampling(continued(request, profile), profile)
    if profile.tools and request.tools and request.tool_choice != "none":
        body["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
            }
            for tool in request.tools
        ]
        body["tool_choice"] = _choice(request.tool_choice)
    if request.sampling.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.sampling.logprobs}
    if prefill:
        body["messages"].append({"role": "assistant", "content": prefill})
        if profile.prefill == "continue_final_message":
            body |= {"continue_final_message": True, "add_generation_prompt": False}
    if input_ids is not None:
        body["input_ids"] = list(input_ids)
    return body | _shared(request, profile, return_prompt_ids)


def completion_body(
    request: Request, profile: Profile, *, model: str, prompt: str | Sequence[int], return_prompt_ids: bool = False
) -> dict[str, Any]:
    """Return the body for `/completions`, whose prompt is text or token ids.

    Servers add the begin token to text themselves. Without `max_tokens` they end after 16 tokens; where `null` stands
    for all that the context leaves, it is sent.

    Raises:
        InvalidRequest: For a choice that the server has no field for.
    """
    prompt = _without_begin(prompt, profile) if isinstance(prompt, str) else list(prompt)
    body: dict[str, Any] = {"model": model, "prompt": prompt, "stream": True}
    if profile.name in _NULL_IS_NO_LIMIT:
        body["max_tokens"] = None
    body |= _sampling(continued(request, profile), profile)
    if request.sampling.logprobs is not None:
        body["logprobs"] = request.sampling.logprobs
    return body | _shared(request, profile, return_prompt_ids)


def _without_begin(text: str, profile: Profile) -> str:
    """Return a prompt without the begin token, which the known servers put there, some of them a second time."""
    return text if profile.name == "openai-generic" else text.removeprefix(BEGIN_OF_TEXT) or text


def encoded(body: Mapping[str, Any]) -> bytes:
    """Return a body as the bytes of its JSON.

    Raises:
        InvalidRequest: When a schema or an extra field holds a value that JSON cannot.
    """
    try:
        return to_json(body, inf_nan_mode="strings")
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidRequest(f"The request cannot be written as JSON ({type(error).__name__}).") from None


def _shared(request: Request, profile: Profile, return_prompt_ids: bool) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if profile.usage_field:
        body["stream_options"] = {"include_usage": True}
    if request.output is not None:
        body |= _schema(request.output, profile)
    if request.cache_salt:
        if "cache_salt" not in profile.sampling:
            raise _no_field("cache_salt", profile)
        body["cache_salt"] = request.cache_salt
    if request.priority and "priority" in profile.sampling:
        body["priority"] = -request.priority  # there, smaller goes first
    if profile.progress:
        body["return_progress"] = True
    if return_prompt_ids:
        body["return_token_ids"] = True
    return body


def _sampling(sampling: Sampling, profile: Profile) -> dict[str, Any]:
    body: dict[str, Any] = {name: getattr(sampling, name) for name in _COMMON if getattr(sampling, name) is not None}
    renamed = _RENAMED.get(profile.name, {})
    for name in _EXTRA:
        value = getattr(sampling, name)
        if value is None or (name == "min_tokens" and value == 0):
            continue
        if name not in profile.sampling:
            if value == _OFF.get(name):
                continue
            raise _no_field(name, profile)
        body[renamed.get(name, name)] = profile.top_k_off if name == "top_k" and value == 0 else value
    if sampling.stop_strings:
        body["stop"] = list(sampling.stop_strings)
    if sampling.stop_token_ids:
        if "stop_token_ids" not in profile.sampling:
            raise _no_field("stop_token_ids", profile)
        body["stop_token_ids"] = list(sampling.stop_token_ids)
    if sampling.biases:
        if "logit_bias" not in profile.sampling:
            raise _no_field("logit_bias", profile)
        body["logit_bias"] = {str(token): bias for token, bias in sampling.biases}
    if sampling.logprobs is not None and not profile.logprobs:
        raise _no_field("logprobs", profile)
    return body


def _no_field(name: str, profile: Profile) -> InvalidRequest:
    return InvalidRequest(
        f"Servers of the profile {profile.name} have no field for {name}; leave it out, or choose the server's "
        "own profile with HttpBackend(profile=…) or pass the field in extra_body."
    )


def _schema(output: OutputSpec, profile: Profile) -> dict[str, Any]:
    match profile.schema:
        case "response_format":
            named = {"name": output.name, "schema": output.schema, "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": named}}
        case "response_format_flat":
            return {"response_format": {"type": "json_schema", "schema": output.schema}}
        case "structured_outputs":
            return {"structured_outputs": {"json": output.schema}}
        case "guided_json":
            return {"guided_json": output.schema}
        case "none":
            return {}  # the prompt asks for it
        case _:
            assert_never(profile.schema)


def _choice(choice: ToolChoice) -> object:
    if choice in ("auto", "required"):
        return choice
    return {"type": "function", "function": {"name": choice}}


def _messages(
    request: Request, profile: Profile, images: Sequence[str], tools_in: ToolsPlace, show_schema: bool
) -> list[dict[str, Any]]:
    messages = with_declarations(
        request.messages,
        tools=() if profile.tools else request.tools,
        choice=request.tool_choice,
        output=request.output if show_schema else None,
        place=tools_in,
    )
    urls = iter(images)
    ids = CallIds(messages)
    return [_message(message, profile, urls, ids) for message in messages]


def _message(message: Message, profile: Profile, urls: Iterator[str], ids: CallIds) -> dict[str, Any]:
    match message:
        case SystemMessage() | UserMessage():
            return {"role": message.role, "content": _content(message, urls)}
        case AssistantMessage():
            return _assistant(message, profile, ids)
        case ToolMessage():
            body = {"role": "tool", "content": _content(message, urls), "tool_call_id": ids.answered(message)}
            return body | ({"name": message.name} if message.name else {})
        case _:
            assert_never(message)


def _assistant(message: AssistantMessage, profile: Profile, ids: CallIds) -> dict[str, Any]:
    named = ids.asked(message.tool_calls)
    if not message.tool_calls:
        return {"role": "assistant", "content": message.text}
    if not profile.tools:
        return {"role": "assistant", "content": message.text + write_calls(message.tool_calls)}
    calls = [
        {
            "id": call_id,
            "type": "function",
            "function": {"name": call.name, "arguments": encoded(mended_value(call.arguments)).decode()},
        }
        for call_id, call in zip(named, message.tool_calls, strict=True)
    ]
    return {"role": "assistant", "content": message.text, "tool_calls": calls}


def _content(message: Message, urls: Iterator[str]) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.text
    parts: list[dict[str, Any]] = []
    for part in message.parts:
        if isinstance(part, Image):
            url = next(urls, None)
            if url is None:
                raise InvalidRequest("The messages hold more images than were prepared to be sent.")
            parts.append({"type": "image_url", "image_url": {"url": url}})
        else:
            parts.append({"type": "text", "text": part.text})
    return parts
