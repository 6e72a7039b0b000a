"""Replies → the JSON of an answer that is not streamed: pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llama4sdk.events import TokenLogprob, Usage
from llama4sdk.server.chunks import call_fields, finish_word, usage_fields
from llama4sdk.server.logprobs import chat_logprobs, completion_logprobs
from llama4sdk.surrogates import mended

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4sdk.events import FinishReason
    from llama4sdk.reply import Reply
    from llama4sdk.server.chunks import Head
    from llama4sdk.server.prompt_report import PromptReport
    from llama4sdk.tool_call import ToolCall


def chat_answer(head: Head, replies: Sequence[Reply], usage: Usage, *, with_logprobs: bool) -> bytes:
    """Return the answer to a chat request."""
    choices = [_chat_choice(index, reply, with_logprobs) for index, reply in enumerate(replies)]
    return head.bytes_of(choices=choices, usage=usage_fields(usage))


def _chat_choice(index: int, reply: Reply, with_logprobs: bool) -> dict[str, Any]:
    calls: tuple[ToolCall, ...] = reply.tool_calls
    message: dict[str, Any] = {"role": "assistant", "content": mended(reply.text) or (None if calls else "")}
    message["refusal"] = None
    if calls:
        message["tool_calls"] = [call_fields(call) for call in calls]
    return {
        "index": index,
        "message": message,
        "logprobs": chat_logprobs(reply.logprobs) if with_logprobs else None,
        "finish_reason": _reason(reply),
    }


def completion_answer(
    head: Head, replies: Sequence[Reply], reports: Sequence[PromptReport], usage: Usage, *, with_logprobs: bool
) -> bytes:
    """Return the answer to a completion request; `reports` are about their prompts."""
    choices: list[dict[str, Any]] = []
    for index, (reply, report) in enumerate(zip(replies, reports, strict=True)):
        echo = report.echo
        repeated = echo.text if echo else ""
        tokens = (*(echo.logprobs if echo else ()), *reply.logprobs, *_ends(reply))
        choices.append(
            {
                "index": index,
                "text": mended(repeated + reply.text),
                "logprobs": completion_logprobs(tokens) if with_logprobs else None,
                "finish_reason": _reason(reply),
                **report.fields,
            }
        )
    return head.bytes_of(choices=choices, usage=usage_fields(usage))


def _ends(reply: Reply) -> list[TokenLogprob]:
    """Return entries for written tokens that are no text, as the one that ended the answer.

    Clients that score a prompt leave out as many entries as tokens were written.
    """
    missing = reply.usage.completion_tokens - len(reply.logprobs)
    return [TokenLogprob("", math.nan)] * max(0, missing)


def _reason(reply: Reply) -> str:
    reason: FinishReason = reply.finish_reason or "cancelled"
    return finish_word(reason)


def together(usages: Sequence[Usage], *, answers_per_prompt: int) -> Usage:
    """Return the counts of several answers, each prompt counted once."""
    total = Usage()
    for index, usage in enumerate(usages):
        again = index % answers_per_prompt
        total += Usage(0, usage.completion_tokens) if again else usage
    return total
