"""The rules that change a row's logits before a token is drawn: penalties, biases, a token mask, excluded tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class RowRules:
    """The rules of one row in one step, for the whole vocabulary or a part of it.

    Args:
        repetition: Penalty of tokens that occurred; 1 for none.
        presence: Penalty of tokens that were written.
        frequency: Penalty for each time that they were.
        history: The tokens that occurred, [vocab], bool, and how often each was written, [vocab], int32; None without
            penalties.
        biases: Token ids, and what is added to their logits.
        allowed: The mask's bits, lowest first; None for no mask.
        excluded: Tokens that are never drawn.
        logprobs: Alternatives to report; None to report nothing.
    """

    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    history: tuple[Tensor, Tensor] | None = None
    biases: tuple[tuple[int, float], ...] = ()
    allowed: bytes | None = None
    excluded: tuple[int, ...] = ()
    logprobs: int | None = None

    def part(self, start: int, stop: int) -> RowRules:
        """Return the rules of a part of the vocabulary, whose tokens count from 0."""
        seen_and_counts = None if self.history is None else (self.history[0][start:stop], self.history[1][start:stop])
        return replace(
            self,
            history=seen_and_counts,
            biases=tuple((token - start, bias) for token, bias in self.biases if start <= token < stop),
            allowed=None if self.allowed is None else _cut(self.allowed, start, stop),
            excluded=tuple(token - start for token in self.excluded if start <= token < stop),
        )


def _cut(bits: bytes, start: int, stop: int) -> bytes:
    """Return the bits from `start` on; missing ones allow no token."""
    whole = np.unpackbits(np.frombuffer(bits.ljust((stop + 7) // 8, b"\0"), np.uint8), bitorder="little")
    return np.packbits(whole[start:stop], bitorder="little").tobytes()
