"""The rules that change a row's logits before a token is drawn: penalties, biases, a token mask, excluded tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from llama4_local.decoding import token_mask
from llama4_local.ops.reference import sampling

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def adjusted(logits: Tensor, rules: Sequence[RowRules]) -> Tensor:
    """Return logits [rows, vocab] after their rows' rules; the same tensor where no row has any."""
    penalized = [row for row, each in enumerate(rules) if each.history is not None]
    masks = {row: each.allowed for row, each in enumerate(rules) if each.allowed is not None}
    changed = penalized or any(each.biases or each.excluded for each in rules)
    result = logits.clone() if changed else logits
    if penalized:
        result[penalized] = _penalize(logits[penalized], [rules[row] for row in penalized])
    for row, each in enumerate(rules):
        if each.biases:
            tokens, values = zip(*each.biases, strict=True)
            result[row, torch.tensor(tokens, device=logits.device)] += torch.tensor(values, device=logits.device)
    if masks:
        result = token_mask.apply(result, masks)
    for row, each in enumerate(rules):
        result[row, list(each.excluded)] = -torch.inf
    return result


def _penalize(logits: Tensor, rules: Sequence[RowRules]) -> Tensor:
    histories = [each.history for each in rules if each.history is not None]

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=logits.device)

    return sampling.penalize(
        logits,
        torch.stack([seen for seen, _ in histories]),
        torch.stack([counts for _, counts in histories]),
        column([each.repetition for each in rules]),
        column([each.presence for each in rules]),
        column([each.frequency for each in rules]),
    )


def _cut(bits: bytes, start: int, stop: int) -> bytes:
    """Return the bits from `start` on; missing ones allow no token."""
    whole = np.unpackbits(np.frombuffer(bits.ljust((stop + 7) // 8, b"\0"), np.uint8), bitorder="little")
    return np.packbits(whole[start:stop], bitorder="little").tobytes()
