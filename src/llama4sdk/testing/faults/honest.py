"""The answers of a well-behaved server: a word is a token, and the same question gets the same answer."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MODEL = "faults"
CONTEXT = 20_000  # words
IMAGE = 147  # tokens of one tile

_HEAD = {"id": "chatcmpl-1", "created": 1, "model": MODEL}
_COUNT = re.compile(r"count from 1 to (\d{1,6})", re.IGNORECASE)
_WORD = re.compile(r"\s*\S+")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer in full.

    Args:
        words: Its tokens, each with the white space before it.
        reason: The finish reason.
        prompt_tokens: Tokens of the prompt.
        call: The tool call that it is instead, as `(name, arguments)`.
    """

    words: tuple[str, ...]
    reason: str
    prompt_tokens: int
    call: tuple[str, str] | None = None

    @property
    def text(self) -> str:
        """The words, joined."""
        return "".join(self.words)

    @property
    def usage(self) -> dict[str, int]:
        """Token counts as they are sent."""
        count = max(1, len(self.words))
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": count,
            "total_tokens": self.prompt_tokens + count,
        }


def answer(body: Mapping[str, Any]) -> Answer:
    """Return the answer to a request's body, of chat or of plain completions."""
    messages: Sequence[Mapping[str, Any]] = body.get("messages") or []
    texts, images = _contents(messages) if messages else (_prompt(body.get("prompt")), 0)
    prompt_tokens = sum(len(_WORD.findall(text)) for text in texts) + IMAGE * images + 1
    tools = body.get("tools") or []
    if tools and messages[-1].get("role") == "user":
        return Answer((), "tool_calls", prompt_tokens, (tools[0]["function"]["name"], '{"city": "Paris"}'))
    words = tuple(_WORD.findall(_text(texts[-1], images)))
    most = body.get("max_tokens")
    if isinstance(most, int) and most < len(words):
        return Answer(words[:most], "length", prompt_tokens)
    return Answer(words, "stop", prompt_tokens)


def _text(asked: str, images: int) -> str:
    counting = _COUNT.search(asked)
    if counting:
        return " ".join(str(number) for number in range(1, int(counting[1]) + 1))
    seen = f" I see {images} images." if images else ""
    return f"Héllo 👋, you said:{seen} {asked}"


def _contents(messages: Sequence[Mapping[str, Any]]) -> tuple[list[str], int]:
    texts: list[str] = []
    images = 0
    for message in messages:
        content = message.get("content") or ""
        parts: list[Any] = content if isinstance(content, list) else [{"type": "text", "text": content}]
        texts.append(" ".join(str(part.get("text", "")) for part in parts if part.get("type") == "text"))
        images += sum(part.get("type") == "image_url" for part in parts)
    return texts, images


def _prompt(prompt: object) -> list[str]:
    return [" ".join(str(token) for token in prompt) if isinstance(prompt, list) else str(prompt)]


def event(value: Any) -> bytes:
    """Return a value as one server-sent event."""
    return f"data: {json.dumps(value)}\n\n".encode()


def delta(delta: Mapping[str, Any] | None, reason: str | None = None, **extra: Any) -> dict[str, Any]:
    """Return a chunk of a streamed chat answer."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        "choices": [choice],
        **extra,
    }


def counts(given: Answer) -> dict[str, Any]:
    """Return the chunk that carries the token counts."""
    return {**delta(None), "choices": [], "usage": given.usage}


def events(given: Answer, *, usage: bool = True) -> Iterator[bytes]:
    """Yield a chat answer as events."""
    yield event(delta({"role": "assistant", "content": ""}))
    if given.call is not None:
        name, arguments = given.call
        half = len(arguments) // 2
        first = {
            "index": 0,
            "id": "call_1",
            "type": "function",
            "function": {"name": name, "arguments": arguments[:half]},
        }
        yield event(delta({"tool_calls": [first]}))
        yield event(delta({"tool_calls": [{"index": 0, "function": {"arguments": arguments[half:]}}]}))
    for word in given.words:
        yield event(delta({"content": word}))
    yield event(delta({}, given.reason))
    if usage:
        yield event(counts(given))
    yield b"data: [DONE]\n\n"


def completion_events(given: Answer) -> Iterator[bytes]:
    """Yield an answer to a plain completion as events."""
    for word in given.words:
        yield event({"object": "text_completion", "choices": [{"index": 0, "text": word, "finish_reason": None}]})
    yield event({"object": "text_completion", "choices": [{"index": 0, "text": "", "finish_reason": given.reason}]})
    yield event(counts(given))
    yield b"data: [DONE]\n\n"


def whole(given: Answer) -> dict[str, Any]:
    """Return a chat answer that is not streamed."""
    message = {"role": "assistant", "content": given.text}
    choice = {"index": 0, "message": message, "finish_reason": given.reason}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [choice],
        "usage": given.usage,
    }


def models() -> dict[str, Any]:
    """Return what `/models` lists."""
    entry = {"id": MODEL, "object": "model", "created": 1, "owned_by": "llama4sdk", "max_model_len": CONTEXT}
    return {"object": "list", "data": [entry]}


def overflow(tokens: int) -> dict[str, Any]:
    """Return the error of a prompt that is too long."""
    message = f"This model's maximum context length is {CONTEXT} tokens. However, you requested {tokens} tokens."
    return {
        "error": {"message": message, "type": "invalid_request_error", "param": None, "code": "context_length_exceeded"}
    }
