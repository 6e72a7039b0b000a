"""Digests of a prompt's beginnings: two prompts that begin alike share those of what they share."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from llama4sdk.messages import AssistantMessage, Image, Message, SystemMessage, ToolMessage

if TYPE_CHECKING:
    from llama4sdk.request import Request


def prompt_digests(request: Request) -> list[bytes]:
    """Return a digest for each message, over all up to it, the tools and the cache salt; the shortest beginning first.

    A raw prompt has one digest, of its text or tokens.
    """
    digest = hashlib.blake2b(request.cache_salt.encode(), digest_size=16)
    for tool in request.tools:
        _add(digest, tool.name, tool.description, repr(tool.parameters))
    if request.raw is not None:
        _add(digest, repr(request.raw))
        return [digest.digest()]
    digests: list[bytes] = []
    for message in request.messages:
        _add(digest, message.role, *_contents(message))
        digests.append(digest.copy().digest())
    return digests


def head(request: Request, digests: list[bytes]) -> bytes:
    """Return the digest by which prompts of one conversation are kept together: up to the first word of the user."""
    opening = bool(request.messages) and isinstance(request.messages[0], SystemMessage)
    return digests[min(int(opening), len(digests) - 1)]


def _contents(message: Message) -> list[str | bytes]:
    contents: list[str | bytes] = []
    for part in message.parts:
        if isinstance(part, Image):
            source = part.source
            # The object itself stands for an image in memory: a dialog holds the same one in every turn.
            contents.append(source if isinstance(source, str | bytes) else f"{type(source).__name__} {source!r}")
        else:
            contents.append(part.text)
    if isinstance(message, AssistantMessage):
        contents += [repr((call.name, call.arguments)) for call in message.tool_calls]
    if isinstance(message, ToolMessage):
        contents.append(message.name or "")
    return contents


def _add(digest: hashlib.blake2b, *contents: str | bytes) -> None:
    for content in contents:
        data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
