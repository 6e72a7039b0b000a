"""Log-probabilities in the two forms of the wire: of chat and of plain completions; pure."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from llama4sdk.errors import ProtocolError
from llama4sdk.events import TokenLogprob


def read_logprobs(value: Any) -> list[TokenLogprob]:
    """Return one entry per token.

    Args:
        value: The `logprobs` of a choice: `{"content": […]}` or `{"tokens": […], "token_logprobs": […]}`.

    Raises:
        ProtocolError: For any other form.
    """
    if value is None:
        return []
    try:
        if "tokens" in value:
            return _of_completion(value)
        return [_entry(token) for token in value.get("content") or ()]
    except (TypeError, KeyError, AttributeError, ValueError):
        raise ProtocolError("The server sent log-probabilities in a form that nobody knows.") from None


def _entry(token: dict[str, Any]) -> TokenLogprob:
    top = tuple(TokenLogprob(_text(one["token"]), float(one["logprob"])) for one in token.get("top_logprobs") or ())
    return TokenLogprob(_text(token["token"]), float(token["logprob"]), top=top)


def _of_completion(value: dict[str, Any]) -> list[TokenLogprob]:
    tops = value.get("top_logprobs") or ()
    return [
        TokenLogprob(_text(text), float(logprob or 0.0), top=_top(top))
        for text, logprob, top in zip_longest(value["tokens"], value["token_logprobs"], tops)
    ]


def _top(top: dict[str, float] | None) -> tuple[TokenLogprob, ...]:
    ordered = sorted((top or {}).items(), key=lambda item: -item[1])
    return tuple(TokenLogprob(_text(text), float(logprob)) for text, logprob in ordered)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
