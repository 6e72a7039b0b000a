"""Prompts without a template: text in which the names of special tokens stand for these tokens."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llama4sdk.prompting.special_tokens import BEGIN_OF_TEXT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llama4sdk.prompting.tokenizer import Tokenizer

_NAME = re.compile(r"(<\|[a-z0-9_]+\|>)")


def raw_ids(tokenizer: Tokenizer, raw: str | Iterable[int], *, begin: bool = True) -> list[int]:
    """Return the token ids of a raw prompt.

    Args:
        tokenizer: The model's tokenizer.
        raw: Text, or token ids, which stay as they are.
        begin: Whether text begins with the model's begin token; it is not written twice.

    Raises:
        InvalidRequest: The text holds half of a surrogate pair.
    """
    if not isinstance(raw, str):
        return list(raw)
    ids: list[int] = []
    text = ""
    for piece in _NAME.split(raw):
        if piece not in tokenizer.specials:
            text += piece
            continue
        ids += [*tokenizer.encode(text), tokenizer.special(piece)]
        text = ""
    ids += tokenizer.encode(text)
    first = tokenizer.specials.get(BEGIN_OF_TEXT)
    return ids if not begin or first is None or ids[:1] == [first] else [first, *ids]
