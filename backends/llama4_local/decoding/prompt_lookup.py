"""Drafts of an answer's next tokens, copied from where its last ones occurred before (Saxena, prompt lookup, 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST = 4  # tokens of an occurrence that are compared at most
_SHORTEST = 2  # tokens of an occurrence that is worth a draft
_ROOM = 1024  # tokens, at the beginning


class PromptLookup:
    """Finds the latest place with the longest match for the end of one sequence.

    Args:
        never: A token that no draft holds, such as the image placeholder; None for none.
    """

    def __init__(self, never: int | None = None) -> None:
        self._never = never
        self._tokens = np.zeros(_ROOM, np.int64)
        self._count = 0

    def draft(self, tokens: Sequence[int], most: int) -> tuple[int, ...]:
        """Return up to `most` tokens that may follow.

        Args:
            tokens: The whole sequence; that of the call before, and what was added since.
            most: Tokens of the draft.
        """
        self._read(tokens)
        start = self._continuation()
        if start is None:
            return ()
        # Where the copied text overlaps its own end, the draft repeats it.
        period = self._count - start
        drafted = [int(self._tokens[start + place % period]) for place in range(most)]
        return tuple(drafted[: drafted.index(self._never)] if self._never in drafted else drafted)

    def _read(self, tokens: Sequence[int]) -> None:
        while len(tokens) > len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
        self._tokens[self._count : len(tokens)] = tokens[self._count :]
        self._count = len(tokens)

    def _continuation(self) -> int | None:
        """Return the place behind the latest of the longest matches."""
        known, last = self._tokens[: self._count], self._count - 1
        ends = np.flatnonzero(known[:-1] == known[-1])
        matched = 1
        while matched < _LONGEST:
            longer = ends[ends >= matched]
            longer = longer[known[longer - matched] == known[last - matched]]
            if not len(longer):
                break
            ends, matched = longer, matched + 1
        return int(ends[-1]) + 1 if matched >= _SHORTEST and len(ends) else None
