"""The experts that a step reads, expected where each token is equally likely to go to any of them."""

from __future__ import annotations

from functools import cache
from math import comb

_ALL = 1e-6  # so few untouched experts count as none


@cache
def touched_experts(experts: int, tokens: int, ranks: int = 1) -> float:
    """Return how many experts a step's tokens go to; over ranks with whole experts, on the rank with most of them.

    One process reads E · (1 − (1 − 1/E)^tokens). Of several ranks all wait for the one that reads most, which is one
    expert for a single token. Given that d experts are touched, any d are equally likely, so that at most k on each
    rank are touched in [y^d] (Σ_{j≤k} C(E/ranks, j) y^j)^ranks of C(E, d) cases.
    """
    each = experts // ranks
    if not experts or experts * (1 - 1 / experts) ** tokens < _ALL:
        return float(each)
    if ranks == 1:
        return experts * (1 - (1 - 1 / experts) ** tokens)
    distinct = _distinct(experts, tokens)
    reached = 0.0  # the sum of P(more than k) over all k from 0 on is the expected number
    for most in range(each):
        ways = _ways(each, most, ranks)
        reached += 1 - sum(p * ways[d] / comb(experts, d) for d, p in enumerate(distinct) if d < len(ways))
    return reached


def _distinct(experts: int, tokens: int) -> list[float]:
    """Return the probability of each number of touched experts, 0 first."""
    chances = [1.0] + [0.0] * experts
    for _ in range(tokens):
        more = (chances[d] * d + chances[d - 1] * (experts - d + 1) for d in range(1, experts + 1))
        chances = [0.0, *(each / experts for each in more)]
    return chances


@cache
def _ways(each: int, most: int, ranks: int) -> list[int]:
    """Return, for each number of experts, in how many ways they lie so that no rank has more than `most`."""
    one = [comb(each, count) for count in range(most + 1)]
    ways = [1]
    for _ in range(ranks):
        longer = [0] * (len(ways) + most)
        for at, count in enumerate(ways):
            for more, choices in enumerate(one):
                longer[at + more] += count * choices
        ways = longer
    return ways
