"""Samples from logits of which each rank has a part of the vocabulary; the logits themselves stay where they are.

All ranks make the same calls and the same decisions, since they see the same gathered numbers:

1. The largest logit of each part and its token. At temperature 0 that is the answer.
2. For top_k and top_p, the largest weights of each part and the sum of all. They give the smallest weight that passes,
   or more of them are gathered.
3. The sum of the weights that pass in each part. The part in which the draw falls finds the token.

Tokens are those of `ops.reference.sampling` over the joined logits; only sums of parts are taken in another order, in
fp64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from llama4_local.config.share import Share
from llama4_local.decoding.reports import Reports, reported_rows
from llama4_local.ops.reference.sampling import draw_weights, least_passing, top_k_limit, uniforms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llama4_local.decoding.row_rules import RowRules
    from llama4_local.decoding.sampler import SamplingColumns
    from llama4_local.ops.filters import Filters

CANDIDATES = (64, 1024)  # of each part, tried in this order; then all


class Part(NamedTuple):
    """A rank's part of the vocabulary.

    Args:
        share: The rank.
        vocab: Tokens of the whole.
        gather: Returns all ranks' tensors of one shape, [ranks, *shape].
    """

    share: Share
    vocab: int
    gather: Callable[[Tensor], Tensor]

    @property
    def start(self) -> int:
        """Its first token."""
        return self.share.vocabulary(self.vocab)[0]

    @property
    def widths(self) -> list[int]:
        """Tokens of every rank's part."""
        ranges = (Share(rank, self.share.size).vocabulary(self.vocab) for rank in range(self.share.size))
        return [stop - start for start, stop in ranges]


def sample_part(logits: Tensor, columns: SamplingColumns, part: Part) -> Tensor:
    """Return the next token of each row, the same on every rank: [rows], int64, -1 where no token is possible.

    Args:
        logits: [rows, tokens of the part], fp32, after penalties and masks.
        columns: The rows' parameters.
        part: Which part it is.
    """
    best, tokens = _argmax(logits, part)
    bad = ~torch.isfinite(best)
    rows = (columns.filters.temperature > 0).nonzero().squeeze(-1)
    if len(rows):
        unusable = bad[rows]
        usable = torch.where(unusable[:, None], 0, logits[rows])
        filters = columns.filters.rows(rows)
        weights = draw_weights(usable, torch.where(unusable, 0, best[rows]), filters)
        tokens[rows] = _draw(weights, filters, uniforms(columns.seeds[rows], columns.steps[rows]), part)
    return torch.where(bad, -1, tokens)


def report_part(logits: Tensor, tokens: Tensor, rules: Sequence[RowRules], part: Part) -> Reports | None:
    """Return the reports of those rows that ask for them, the same on every rank; None where none does.

    Args:
        logits: [rows, tokens of the part], fp32, before penalties and masks.
        tokens: [rows], int64, the sampled ones.
        rules: One for each row.
        part: Which part it is.
    """
    asked = reported_rows(rules)
    if not asked:
        return None
    rows = list(asked)
    size = min(max(asked.values()), part.vocab)
    return Reports(asked, *_reported(logits[rows], tokens[rows].clamp(min=0), size, part))


def _argmax(logits: Tensor, part: Part) -> tuple[Tensor, Tensor]:
    """Return the largest logit of each row and its token, the first of equal ones; NaN where there is one."""
    own = torch.stack([logits.amax(dim=-1).double(), (logits.argmax(dim=-1) + part.start).double()], dim=-1)
    best, tokens = part.gather(own).unbind(-1)
    first = best.argmax(dim=0, keepdim=True)
    return best.gather(0, first).squeeze(0).float(), tokens.gather(0, first).squeeze(0).long()


def _draw(weights: Tensor, filters: Filters, draws: Tensor, part: Part) -> Tensor:
    least = filters.min_p.to(weights.dtype)
    if filters.ranked:
        least = torch.maximum(least, _least_ranked(weights, filters, part))
    mass = torch.where(weights >= least[:, None], weights, 0).cumsum(dim=-1, dtype=torch.float64)
    ends = part.gather(mass[:, -1]).cumsum(dim=0)  # [ranks, rows]: the mass up to each part's end
    total = ends[-1]
    target = torch.minimum(draws * total, torch.nextafter(total, torch.zeros_like(total)))
    rank = part.share.rank
    before = ends[rank - 1] if rank else torch.zeros_like(total)
    inside = (before <= target) & (target < ends[rank])
    drawn = torch.searchsorted(before[:, None] + mass, target[:, None], right=True).squeeze(-1) + part.start
    return part.gather(torch.where(inside, drawn, -1)).amax(dim=0)


def _least_ranked(weights: Tensor, filters: Filters, part: Part) -> Tensor:
    """Return the smallest weight that passes top_k and top_p, [rows], by the fewest candidates that suffice."""
    widest = max(part.widths)
    everything = weights.sum(dim=-1, dtype=torch.float64)
    least, certain = _least_among(weights, everything, min(CANDIDATES[0], widest), filters, part)
    for size in (*CANDIDATES[1:], widest):
        if bool(certain.all()):
            break
        least, certain = _least_among(weights, everything, min(size, widest), filters, part)
    return least


def _least_among(weights: Tensor, everything: Tensor, size: int, filters: Filters, part: Part) -> tuple[Tensor, Tensor]:
    """Return that weight as far as the `size` largest of each part tell, and the rows where these suffice."""
    top = weights.topk(min(size, weights.shape[-1]), dim=-1).values
    sums = everything[:, None].view(torch.float32)  # as two words, so that one tensor travels
    parts = part.gather(torch.cat([pad(top, (0, size - top.shape[-1])), sums], dim=-1))
    ranked = parts[..., :size].transpose(0, 1).flatten(1).sort(dim=-1, descending=True).values
    total = parts[..., size:].contiguous().view(torch.float64).sum(dim=0).squeeze(-1)
    # Larger weights than the least one that a part has shown are all there; a part that is there whole hides none.
    hidden = torch.tensor([size < width for width in part.widths], device=weights.device)[:, None]
    bound = torch.where(hidden, parts[..., size - 1], -1).amax(dim=0)
    limit = top_k_limit(filters, part.vocab)
    least, _ = least_passing(ranked, part.vocab, limit, total, filters.top_p)
    whole = limit == part.vocab
    enough = limit <= (ranked > bound[:, None]).sum(dim=-1)
    return least, enough | (whole & ((filters.top_p >= 1) | (least > bound)))


def _reported(logits: Tensor, tokens: Tensor, size: int, part: Part) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `ops.reference.sampling.log_probabilities` does over the joined logits."""
    inside = (tokens >= part.start) & (tokens < part.start + logits.shape[-1])
    place = torch.where(inside, tokens - part.start, 0)
    sampled = torch.where(inside, logits.gather(-1, place[:, None]).squeeze(-1), -torch.inf)
    top = logits.topk(min(size, logits.shape[-1]), dim=-1)
    missing = (0, size - top.values.shape[-1])
    values = pad(top.values.double(), missing, value=-torch.inf)
    ids = pad((top.indices + part.start).double(), missing)
    sums = torch.stack([sampled.double(), logits.double().logsumexp(dim=-1)], dim=-1)
    joined = part.gather(torch.cat([sums, values, ids], dim=-1)).transpose(0, 1)  # [rows, ranks, 2 + 2 · size]
    total = joined[:, :, 1].logsumexp(dim=-1)
    ranked = joined[:, :, 2 : 2 + size].flatten(1).sort(dim=-1, descending=True, stable=True)
    best = ranked.indices[:, :size]
    own = joined[:, :, 0].amax(dim=-1) - total
    tops = joined[:, :, 2 + size :].flatten(1).gather(-1, best).long()
    return own.float(), tops, (ranked.values[:, :size] - total[:, None]).float()
