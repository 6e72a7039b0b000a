"""The contents of messages, as they enter a digest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4sdk.messages import AssistantMessage, Image, ToolMessage

if TYPE_CHECKING:
    from hashlib import blake2b

    from llama4sdk.messages import Message
    from llama4sdk.parts import Part


def add_message(digest: blake2b, message: Message) -> None:
    """Add a message: its role, its parts in order, its calls without their ids, and the name of its tool.

    An image stands for the bytes or the address that it was made from; one in memory for the object itself, since a
    dialog holds the same one in every turn.
    """
    add_contents(digest, message.role)
    if isinstance(message.content, str):
        add_contents(digest, "text", message.content)
    else:
        for part in message.content:
            _add_part(digest, part)
    if isinstance(message, AssistantMessage):
        for call in message.tool_calls:
            add_contents(digest, "call", repr((call.name, call.arguments)))
    if isinstance(message, ToolMessage):
        add_contents(digest, "name", message.name or "")


def _add_part(digest: blake2b, part: Part) -> None:
    if not isinstance(part, Image):
        add_contents(digest, part.type, part.text)
        return
    source = part.source
    add_contents(
        digest, part.type, source if isinstance(source, str | bytes) else f"{type(source).__name__} {source!r}"
    )


def add_contents(digest: blake2b, *contents: str | bytes) -> None:
    """Add texts or bytes, each with its length, so that no two rows of them are the same."""
    for content in contents:
        data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
