"""Token ids into text, a few at a time, without ever cutting a character."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class IncrementalDecoder:
    """Text out of token ids as they come, in time linear in their number.

    The bytes of an unfinished character are held back until it is complete; bytes that no longer can become
    one turn into U+FFFD, as they do when everything is decoded at once. However the ids are cut into
    pushes, the pieces and the last flush join to what `Tokenizer.decode` says of all ids.

    Args:
        token_bytes: The bytes of an ordinary token, `None` for a special one; raises for an unknown id.
        special_name: The name of a special token.
        skip_special: Leave special tokens out instead of writing their names.
    """

    def __init__(
        self,
        token_bytes: Callable[[int], bytes | None],
        special_name: Callable[[int], str],
        *,
        skip_special: bool = False,
    ) -> None:
        self._token_bytes = token_bytes
        self._special_name = special_name
        self._skip_special = skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_ids: Iterable[int]) -> str:
        """Take the next ids and return the text that is certain now, possibly none.

        Raises:
            InvalidRequest: An id is not in the vocabulary.
        """
        return "".join([self._one(token_id) for token_id in token_ids])

    def flush(self) -> str:
        """Return what was held back, as U+FFFD, and start afresh."""
        return self._utf8.decode(b"", final=True)

    def _one(self, token_id: int) -> str:
        piece = self._token_bytes(token_id)
        if piece is not None:
            return self._utf8.decode(piece)
        # A special token ends the text before it: no character reaches across.
        shown = "" if self._skip_special else self._special_name(token_id)
        return self.flush() + shown
