"""The stretches of messages that guards replaced, remembered for later turns."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING

from llama4sdk.guards.items import with_redactions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4sdk.messages import Message
    from llama4sdk.request import Request
    from llama4sdk.verdict import Redaction

_MOST_REMEMBERED = 100_000


class Replacements:
    """Remembers which stretches of which messages were replaced, so that they stay so in later turns.

    A conversation is sent again with every turn, and only its last turn is judged. Messages are kept as hashes.
    """

    def __init__(self) -> None:
        self._stretches: OrderedDict[bytes, tuple[Redaction, ...]] = OrderedDict()

    def remember(self, message: Message, stretches: Sequence[Redaction]) -> None:
        """Remember the stretches of one message; the oldest go first."""
        self._stretches[_key(message)] = tuple(stretches)
        if len(self._stretches) > _MOST_REMEMBERED:
            self._stretches.popitem(last=False)

    def applied(self, request: Request) -> Request:
        """Return a request with everything replaced that was replaced before."""
        if not self._stretches:
            return request
        known = {place: self._stretches.get(_key(message)) for place, message in enumerate(request.messages)}
        stretches = {place: each for place, each in known.items() if each}
        return with_redactions(request, stretches) if stretches else request


def _key(message: Message) -> bytes:
    return hashlib.sha256(f"{message.role}\0{message.text}".encode(errors="surrogatepass")).digest()
