"""Log-probabilities as chat and completion answers write them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llama4sdk.events import TokenLogprob

_LEAST = -9999.0  # stands for minus infinity, which JSON does not have


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """Return the `logprobs` of a chat choice."""
    content = [{**_entry(token), "top_logprobs": [_entry(other) for other in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def _entry(token: TokenLogprob) -> dict[str, Any]:
    data = None if "\N{REPLACEMENT CHARACTER}" in token.text else list(token.text.encode())
    return {"token": token.text, "logprob": finite(token.logprob), "bytes": data}


def completion_logprobs(tokens: Sequence[TokenLogprob], start: int = 0) -> dict[str, Any]:
    """Return the `logprobs` of a completion choice.

    Args:
        tokens: The tokens; one whose log-probability is NaN is the first of a prompt.
        start: Offset of the first one in the choice's text.
    """
    offsets: list[int] = []
    for token in tokens:
        offsets.append(start)
        start += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [None if math.isnan(token.logprob) else finite(token.logprob) for token in tokens],
        "top_logprobs": [None if math.isnan(token.logprob) else _by_text(token) for token in tokens],
        "text_offset": offsets,
    }


def _by_text(token: TokenLogprob) -> dict[str, float]:
    """Return the alternatives by their text; of those with the same text, the most probable."""
    best: dict[str, float] = {}
    for other in (*token.top, token):
        best[other.text] = max(best.get(other.text, _LEAST), finite(other.logprob))
    return best


def finite(logprob: float) -> float:
    """Return a log-probability as JSON can hold it."""
    return max(_LEAST, logprob)
