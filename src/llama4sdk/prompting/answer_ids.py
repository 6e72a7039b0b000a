"""From the text with which an answer begins to its tokens."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llama4sdk.prompting.tokenizer import Tokenizer

# Special tokens that a model writes within an answer; the names of all others stay text.
_WRITTEN: Final = ("<|python_start|>", "<|python_end|>")
_NAMES: Final = re.compile("(" + "|".join(map(re.escape, _WRITTEN)) + ")")


def answer_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the tokens of an answer's beginning; marks around tool calls are the special tokens that they name."""
    ids: list[int] = []
    for piece in _NAMES.split(text):
        if piece in _WRITTEN and piece in tokenizer.specials:
            ids.append(tokenizer.special(piece))
        else:
            ids += tokenizer.encode(piece)
    return ids
