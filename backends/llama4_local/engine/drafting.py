"""Drafts of one sequence, and which of their tokens are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.config.formats import MOST_DRAFTED
from llama4_local.decoding.prompt_lookup import PromptLookup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4_local.decoding.sampler import SampledToken

_FIRST = 3  # tokens of the first draft
_FEWEST = 2
_WORTH = 1.6  # tokens that a step with drafts has to yield on average
_WEIGHT = 0.25  # of the last step in that average
_REST = 16  # tokens without drafts after they were not worth it; twice as many each time
_LONGEST_REST = 512


class Drafting:
    """Drafts of one sequence: as long as they are confirmed, and none for a while where they are not.

    Args:
        never: See `PromptLookup`.
    """

    def __init__(self, never: int | None = None) -> None:
        self._lookup = PromptLookup(never)
        self._length = _FIRST
        self._average = 2.0
        self._resumes = 0
        self._rest = _REST

    def rests(self, count: int) -> bool:
        """Whether a sequence of so many tokens gets no draft now."""
        return count < self._resumes

    def draft(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Return tokens that may follow those of the sequence."""
        return () if self.rests(len(tokens)) else self._lookup.draft(tokens, self._length)

    def observe(self, drafted: int, accepted: int, count: int) -> None:
        """Learn from a step.

        Args:
            drafted: Tokens of its draft.
            accepted: Those that were kept.
            count: Tokens of the sequence.
        """
        self._average += _WEIGHT * (accepted + 1 - self._average)
        self._length = min(2 * self._length, MOST_DRAFTED) if accepted == drafted else max(accepted + 1, _FEWEST)
        if self._average >= _WORTH:
            self._rest = _REST
            return
        self._resumes = count + self._rest
        self._rest = min(2 * self._rest, _LONGEST_REST)
        self._average = _WORTH  # so that the next draft decides


def confirmed(drafted: Sequence[int], sampled: Sequence[SampledToken]) -> list[SampledToken]:
    """Return the sampled tokens that are the answer's: up to the first that is not the drafted one.

    Args:
        drafted: Tokens behind the sequence's last one.
        sampled: The tokens behind the last one and behind each drafted one.
    """
    wrong = (place for place, token in enumerate(drafted) if sampled[place].token != token)
    return list(sampled[: next(wrong, len(drafted)) + 1])
