"""Digests of a prompt's beginnings: two prompts that begin alike share those of what they share."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from llama4sdk.message_digest import add_contents, add_message
from llama4sdk.messages import SystemMessage

if TYPE_CHECKING:
    from llama4sdk.request import Request


def prompt_digests(request: Request) -> list[bytes]:
    """Return a digest for each message, over all up to it, the tools and the cache salt; the shortest beginning first.

    A raw prompt has one digest, of its text or tokens.
    """
    digest = hashlib.blake2b(request.cache_salt.encode(), digest_size=16)
    for tool in request.tools:
        add_contents(digest, tool.name, tool.description, repr(tool.parameters))
    if request.raw is not None:
        add_contents(digest, repr(request.raw))
        return [digest.digest()]
    digests: list[bytes] = []
    for message in request.messages:
        add_message(digest, message)
        digests.append(digest.copy().digest())
    return digests


def head(request: Request, digests: list[bytes]) -> bytes:
    """Return the digest by which prompts of one conversation are kept together: up to the first word of the user."""
    opening = bool(request.messages) and isinstance(request.messages[0], SystemMessage)
    return digests[min(int(opening), len(digests) - 1)]
