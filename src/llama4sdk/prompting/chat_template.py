"""A checkpoint's own chat template, rendered in Jinja's sandbox.

The template is foreign code: it runs without access to Python's internals, and the text of the messages
cannot forge special tokens, because whatever looks like one is broken up before the template sees it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from llama4sdk.errors import BackendMissing, InvalidRequest
from llama4sdk.messages import AssistantMessage, Image, Message, ToolCall, ToolMessage
from llama4sdk.prompting.template_environment import MOST_WRITTEN, template_environment

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from jinja2 import Template

    from llama4sdk.request import ToolSpec

_Json: TypeAlias = "str | int | float | bool | list[_Json] | dict[str, _Json] | None"

_PROBE = "a probe of content"
_SHOWN_WORDS = 200  # characters of a template's own complaint
# Private-use characters; one that no message holds breaks up what looks like a special token.
_BREAKERS = range(0xE000, 0xF8FF)


def render_chat_template(
    source: str,
    dialog: Sequence[Message],
    tools: Sequence[ToolSpec],
    specials: Collection[str],
    *,
    answer: bool,
) -> Iterator[tuple[str, bool]]:
    """Yield the prompt in stretches: (text, whether it is a special token of the template's).

    Args:
        source: The Jinja template.
        dialog: The conversation.
        tools: The tools that the template is told of.
        specials: Names of all special tokens.
        answer: Whether the template shall open the assistant's turn.

    Raises:
        InvalidRequest: When the template fails, does not parse, or reaches for what it may not.
    """
    forms = _content_forms(source)
    messages: list[_Json] = [_as_dict(message, forms) for message in dialog]
    declared: list[_Json] = [_tool_dict(tool) for tool in tools]
    breaker = _unused_character(json.dumps([messages, declared], ensure_ascii=False))
    guarded = cast("list[_Json]", _guard([messages, declared], breaker))
    text = _run(source, guarded[0], guarded[1] or None, breaker, answer=answer)
    names = "|".join(re.escape(name) for name in sorted(specials, key=len, reverse=True))
    for stretch in re.split(f"({names})", text):
        if stretch:
            is_special = stretch in specials
            yield (stretch if is_special else stretch.replace(breaker, "")), is_special


def _run(source: str, messages: _Json, tools: _Json, breaker: str, *, answer: bool) -> str:
    from jinja2 import TemplateError

    try:
        stretches = _compiled(source, breaker).generate(
            messages=messages,
            tools=tools,
            documents=None,
            add_generation_prompt=answer,
            bos_token="<|begin_of_text|>",  # noqa: S106 - a token of text, no secret
            eos_token="<|eot|>",  # noqa: S106
        )
        return _joined(stretches)
    except BackendMissing:
        raise
    except Exception as error:  # foreign code, which fails in ways of its own
        words = str(error).replace(breaker, "")[:_SHOWN_WORDS] if type(error) is TemplateError else ""
        reason = words or type(error).__name__
        raise InvalidRequest(
            f"The checkpoint's chat template failed ({reason}); leave it out to use the reference's form."
        ) from error


def _joined(stretches: Iterator[str]) -> str:
    from jinja2 import TemplateError

    kept: list[str] = []
    room = MOST_WRITTEN
    for stretch in stretches:
        kept.append(stretch)
        room -= len(stretch)
        if room < 0:
            raise TemplateError(f"it writes more than {MOST_WRITTEN:,} characters")
    return "".join(kept)


@lru_cache(maxsize=16)
def _compiled(source: str, breaker: str) -> Template:
    """Return a template in its sandbox; a guard renders the same one for every check."""
    return template_environment(breaker).from_string(source)


@dataclass(frozen=True, slots=True)
class _Forms:
    """The forms of a message's content whose text a template shows."""

    strings: bool = True
    parts: bool = True

    def as_string(self, content: object) -> bool:
        """Return whether content without images is given as a string: as it came, where that form is shown."""
        if self.strings is self.parts:
            return isinstance(content, str)
        return self.strings


@lru_cache(maxsize=64)
def _content_forms(source: str) -> _Forms:
    """Return the forms that a template shows, found by rendering both.

    A template that reads a list of parts leaves out a string's text without an error; one that prints the content
    as it is shows a list as Python writes it.
    """
    parts: _Json = [{"type": "text", "text": _PROBE}]
    as_string, as_parts = (_probed(source, content) for content in (_PROBE, parts))
    return _Forms(_PROBE in as_string, _PROBE in as_parts and f"'{_PROBE}'" not in as_parts)


def _probed(source: str, content: _Json) -> str:
    try:
        return _run(source, [{"role": "user", "content": content}], None, chr(_BREAKERS[0]), answer=True)
    except InvalidRequest:
        return ""


def _as_dict(message: Message, forms: _Forms) -> _Json:
    parts: list[_Json] = [
        {"type": "image"} if isinstance(part, Image) else {"type": "text", "text": part.text} for part in message.parts
    ]
    only_text = not message.images and forms.as_string(message.content)
    shown: dict[str, _Json] = {"role": message.role, "content": message.text if only_text else parts}
    if isinstance(message, AssistantMessage) and message.tool_calls:
        shown["tool_calls"] = [_call_dict(call) for call in message.tool_calls]
    if isinstance(message, ToolMessage):
        shown |= {"tool_call_id": message.tool_call_id} if message.tool_call_id else {}
        shown |= {"name": message.name} if message.name else {}
    return shown


def _call_dict(call: ToolCall) -> _Json:
    return {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": call.arguments}}


def _tool_dict(tool: ToolSpec) -> _Json:
    function: Mapping[str, Any] = {
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
    }
    return {"type": "function", "function": dict(function)}


def _unused_character(text: str) -> str:
    for code in _BREAKERS:
        if chr(code) not in text:
            return chr(code)
    raise InvalidRequest("The messages hold every private-use character; a chat template cannot be rendered safely.")


def _guard(value: _Json, breaker: str) -> _Json:
    match value:
        case str():
            return value.replace("<|", f"<{breaker}|").replace("|>", f"|{breaker}>")
        case list():
            return [_guard(item, breaker) for item in value]
        case dict():
            return {str(_guard(name, breaker)): _guard(item, breaker) for name, item in value.items()}
        case _:
            return value
