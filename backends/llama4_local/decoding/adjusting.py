"""The step between logits and sampling: each row's rules, see `RowRules`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llama4_local.decoding import token_mask
from llama4_local.decoding.sending import sent
from llama4_local.ops.penalties import Penalties

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from llama4_local.decoding.row_rules import RowRules
    from llama4_local.ops.interface import Ops


def adjust(ops: Ops, logits: Tensor, rules: Sequence[RowRules]) -> None:
    """Apply each row's rules to its logits, in place; the host does not wait for the device.

    Args:
        ops: Adjust on the logits' device.
        logits: [rows, vocab or a part of it], fp32.
        rules: One for each row, of the same part.
    """
    penalized = {row: each for row, each in enumerate(rules) if each.history is not None}
    if penalized:
        _adjust_rows(ops, logits, list(penalized), penalties=_penalties(list(penalized.values()), logits.device))
    _add_biases(logits, rules)
    masks = {row: each.allowed for row, each in enumerate(rules) if each.allowed is not None}
    if masks:
        words = token_mask.words(list(masks.values()), logits.shape[1])
        _adjust_rows(ops, logits, list(masks), allowed=sent(words, torch.int32, logits.device))
    _exclude(logits, rules)


def _adjust_rows(
    ops: Ops, logits: Tensor, rows: list[int], *, penalties: Penalties | None = None, allowed: Tensor | None = None
) -> None:
    if len(rows) == len(logits):
        ops.adjust(logits, penalties, allowed)
        return
    places = sent(rows, torch.int64, logits.device)
    own = logits[places]
    ops.adjust(own, penalties, allowed)
    logits.index_copy_(0, places, own)


def _penalties(rules: Sequence[RowRules], device: torch.device) -> Penalties:
    histories = [each.history for each in rules if each.history is not None]

    def column(values: Iterable[float]) -> Tensor:
        return sent(list(values), torch.float32, device)

    return Penalties(
        torch.stack([seen for seen, _ in histories]),
        torch.stack([counts for _, counts in histories]),
        column(each.repetition for each in rules),
        column(each.presence for each in rules),
        column(each.frequency for each in rules),
    )


def _add_biases(logits: Tensor, rules: Sequence[RowRules]) -> None:
    biases = [(row, token, value) for row, each in enumerate(rules) for token, value in each.biases]
    if biases:
        rows, tokens, values = zip(*biases, strict=True)
        added = sent(values, logits.dtype, logits.device)
        logits.index_put_(_places(rows, tokens, logits.device), added, accumulate=True)


def _exclude(logits: Tensor, rules: Sequence[RowRules]) -> None:
    excluded = [(row, token) for row, each in enumerate(rules) for token in each.excluded]
    if excluded:
        rows, tokens = zip(*excluded, strict=True)
        logits.index_put_(_places(rows, tokens, logits.device), logits.new_full((), -torch.inf))


def _places(rows: Sequence[int], tokens: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    return sent(rows, torch.int64, device), sent(tokens, torch.int64, device)
