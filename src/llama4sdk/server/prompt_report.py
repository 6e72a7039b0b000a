"""The part of a completion answer that is about its prompt: pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llama4sdk.server.logprobs import finite

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llama4sdk.events import TextDelta, TokenLogprob


@dataclass(frozen=True, slots=True)
class PromptReport:
    """The part of a choice that is about its prompt.

    Args:
        echo: The prompt with its log-probabilities, where it is repeated before the answer.
        fields: Further fields of the choice.
    """

    echo: TextDelta | None = None
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])


def prompt_fields(scores: Sequence[TokenLogprob], top: int) -> dict[str, Any]:
    """Return a prompt's scores as vLLM lists them: for each token a mapping of ids, its own first, with their ranks.

    Args:
        scores: The scores.
        top: Alternatives for each token.
    """
    return {
        "prompt_logprobs": [None if math.isnan(token.logprob) else _ranked(token, top) for token in scores],
        "prompt_token_ids": [token.token_id for token in scores],
    }


def _ranked(token: TokenLogprob, top: int) -> dict[str, Any]:
    own = {str(token.token_id): _fields(token, None)}
    best = {str(other.token_id): _fields(other, rank) for rank, other in enumerate(token.top[:top], start=1)}
    return own | best


def _fields(token: TokenLogprob, rank: int | None) -> dict[str, Any]:
    return {"logprob": finite(token.logprob), "rank": rank, "decoded_token": token.text}
