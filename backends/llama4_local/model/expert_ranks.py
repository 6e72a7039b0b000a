"""A mixture of experts over ranks that have whole experts: a token's rows are computed by the rank of its expert.

All ranks have the same rows and the same router, so each knows of every token which rank computes it, and only results
travel. The shared expert is computed there too, for the same tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from llama4_local.model.ranks import Ranks
    from llama4_local.ops.interface import Ops
    from llama4_local.weights.tree import MoeWeights


def moe_over_ranks(ops: Ops, ranks: Ranks, x: Tensor, weights: MoeWeights) -> Tensor:
    """Return what `Ops.moe` does with all experts, the same bits on every rank.

    Args:
        ops: The functions of a layer.
        ranks: The ranks, whose share has whole experts.
        x: [tokens, hidden], the same on every rank.
        weights: The router of all experts, this rank's routed ones and the whole shared one.
    """
    scores = ops.router_logits(x, weights.router)
    experts = scores.shape[1]
    owners = scores.max(dim=-1).indices // (experts // ranks.size)
    order = owners.argsort(stable=True)  # tokens by rank
    counts = owners.bincount(minlength=ranks.size).tolist()
    own = order.split(counts)[ranks.share.rank]
    first, last = ranks.share.experts(experts)
    # The largest of a token's scores is among these, so that they choose the same expert.
    rows = ops.whole(ops.experts(x[own], scores[own, first:last], weights)) if len(own) else x[:0]
    return torch.empty_like(x).index_copy_(0, order, ranks.join(rows, counts))
