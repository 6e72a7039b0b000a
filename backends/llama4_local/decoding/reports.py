"""Log-probabilities of sampled tokens, for the rows that ask for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from llama4_local.decoding.sending import sent
from llama4_local.ops.reference import sampling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llama4_local.decoding.row_rules import RowRules

Report = tuple[float, tuple[tuple[int, float], ...]]  # of the sampled token; the most probable tokens with theirs


def reported_rows(rules: Sequence[RowRules]) -> dict[int, int]:
    """Return the rows that ask for a report, each with its number of alternatives."""
    return {row: each.logprobs for row, each in enumerate(rules) if each.logprobs is not None}


@dataclass(frozen=True, slots=True)
class Reports:
    """The reports of a step on the host, valid when the step's tokens have arrived.

    Args:
        asked: Rows of the step, each with the number of alternatives.
        own: [asked], fp32: log-probabilities of the sampled tokens.
        ids: [asked, most], int64: the most probable tokens.
        values: As `ids`, fp32: their log-probabilities.
    """

    asked: dict[int, int]
    own: Tensor
    ids: Tensor
    values: Tensor

    def by_row(self) -> dict[int, Report]:
        """Return each row's report."""
        columns = zip(self.asked.items(), self.own.tolist(), self.ids.tolist(), self.values.tolist(), strict=True)
        return {row: (own, tuple(zip(ids, values, strict=True))[:top]) for (row, top), own, ids, values in columns}


@dataclass(frozen=True, slots=True)
class ReportedLogits:
    """Logits before penalties and masks, copied, of the rows that ask for reports.

    Args:
        asked: As in `Reports`.
        rows: [asked], int64, on the logits' device.
        logits: [asked, vocab].
    """

    asked: dict[int, int]
    rows: Tensor
    logits: Tensor

    @classmethod
    def of(cls, logits: Tensor, rules: Sequence[RowRules]) -> ReportedLogits | None:
        """Copy what reports are made from; None where no row asks for one.

        Args:
            logits: [rows, vocab], before penalties and masks.
            rules: One for each row.
        """
        asked = reported_rows(rules)
        if not asked:
            return None
        rows = sent(list(asked), torch.int64, logits.device)
        return cls(asked, rows, logits[rows])

    def reports(self, tokens: Tensor) -> Reports:
        """Return the reports on the tokens sampled for a step, [rows], int64; on their way to the host."""
        sampled = tokens[self.rows].clamp(min=0)
        columns = sampling.log_probabilities(self.logits, sampled, max(self.asked.values()))
        return Reports(self.asked, *(column.to("cpu", non_blocking=True) for column in columns))
