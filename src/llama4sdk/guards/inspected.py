"""Messages that guards inspected, remembered for later turns, with what was replaced in them."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING

from llama4sdk.guards.items import with_redactions, with_replaced
from llama4sdk.message_digest import add_contents, add_message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4sdk.guards.ruling import Ruling
    from llama4sdk.messages import Image, Message
    from llama4sdk.request import Request
    from llama4sdk.verdict import Redaction

_MOST_REMEMBERED = 100_000


class Inspected:
    """Remembers which messages were cleared, and which of their stretches were replaced.

    A conversation is sent again with every turn: what was cleared is not inspected again, and what was replaced stays
    so. Messages are kept as digests, the oldest go first. A message that was cleared counts for requests of the same
    cache salt alone, since the time of an answer tells whether it was.
    """

    def __init__(self) -> None:
        self._stretches: OrderedDict[bytes, tuple[Redaction, ...]] = OrderedDict()
        self._replaced = False  # whether anything was replaced so far

    def note(self, message: Message, ruling: Ruling, *, salt: str) -> None:
        """Remember a message that a ruling cleared, and its stretches that were replaced."""
        if not ruling.sound:
            return
        self.remember(message, salt=salt)
        if ruling.redactions:
            self._replaced = True
            self._put(_words(message), ruling.redactions)
            self.remember(with_replaced(message, ruling.redactions), salt=salt)

    def remember(self, message: Message, *, salt: str) -> None:
        """Remember a message that was cleared."""
        self._put(_whole(message, salt))

    def holds(self, message: Message, *, salt: str) -> bool:
        """Return whether a message was cleared before; not of one whose images lie elsewhere, where they may change."""
        key = _whole(message, salt)
        if key not in self._stretches or not all(_is_carried(image) for image in message.images):
            return False
        self._stretches.move_to_end(key)
        return True

    def applied(self, request: Request) -> Request:
        """Return a request with everything replaced that was replaced before."""
        if not self._replaced:
            return request
        known = {place: self._stretches.get(_words(message)) for place, message in enumerate(request.messages)}
        stretches = {place: each for place, each in known.items() if each}
        return with_redactions(request, stretches) if stretches else request

    def _put(self, key: bytes, stretches: Sequence[Redaction] = ()) -> None:
        self._stretches[key] = tuple(stretches)
        self._stretches.move_to_end(key)
        if len(self._stretches) > _MOST_REMEMBERED:
            self._stretches.popitem(last=False)


def _whole(message: Message, salt: str) -> bytes:
    digest = blake2b(digest_size=16)
    add_contents(digest, salt)
    add_message(digest, message)
    return digest.digest()


def _words(message: Message) -> bytes:
    digest = blake2b(digest_size=16)
    add_contents(digest, message.role, message.text)
    return digest.digest()


def _is_carried(image: Image) -> bool:
    """Return whether an image's bytes are in the message itself."""
    return isinstance(image.source, bytes) or (isinstance(image.source, str) and image.source[:5].lower() == "data:")
