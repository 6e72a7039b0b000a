"""Log-probabilities in the two forms of the wire, of chat and of plain completions: pure.

Servers send null, -inf, NaN or -9999 for tokens of no measurable probability, and rounding leaves numbers a
little above 0. Every value is brought into [-9999, 0]; unknown and non-finite ones become -9999, as vLLM writes them.
"""

from __future__ import annotations

import math
from itertools import zip_longest
from typing import Any

from llama4sdk.errors import ProtocolError
from llama4sdk.events import TokenLogprob
from llama4sdk.surrogates import mended

LOWEST = -9999.0


def read_logprobs(value: Any) -> list[TokenLogprob]:
    """Return one entry per token.

    Args:
        value: The `logprobs` of a choice: `{"content": […]}`, its list alone, or `{"tokens": […],
            "token_logprobs": […]}`.

    Raises:
        ProtocolError: For any other form.
    """
    if value is None:
        return []
    try:
        if isinstance(value, dict) and "tokens" in value:
            return _of_completion(value)
        tokens = value if isinstance(value, list) else value.get("content")
        return [_entry(token) for token in tokens or () if token is not None]
    except (TypeError, KeyError, AttributeError, ValueError):
        raise ProtocolError("The server sent log-probabilities of an unknown form.") from None


def _entry(token: dict[str, Any]) -> TokenLogprob:
    given: Any = token.get("top_logprobs") or ()
    top = _top(given) if isinstance(given, dict) else tuple(_entry(one) for one in given if one is not None)
    return TokenLogprob(_text(token["token"]), bounded(token.get("logprob")), top=top)


def _of_completion(value: dict[str, Any]) -> list[TokenLogprob]:
    tops = value.get("top_logprobs") or ()
    return [
        TokenLogprob(_text(text), bounded(logprob), top=_top(top))
        for text, logprob, top in zip_longest(value["tokens"], value["token_logprobs"], tops)
    ]


def _top(top: dict[str, float] | None) -> tuple[TokenLogprob, ...]:
    ordered = sorted((top or {}).items(), key=lambda item: -bounded(item[1]))
    return tuple(TokenLogprob(_text(text), bounded(logprob)) for text, logprob in ordered)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return mended(value)


def bounded(value: Any) -> float:
    """Return a log-probability within [-9999, 0]; one that is unknown is -9999."""
    if value is None or isinstance(value, bool):
        return LOWEST
    try:
        number = float(value)
    except OverflowError:  # an integer beyond every float
        return LOWEST if value < 0 else 0.0
    return LOWEST if math.isnan(number) else min(max(number, LOWEST), 0.0)
