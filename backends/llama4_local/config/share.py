"""One rank's share of a network: whole heads, a range of the vocabulary, and slices of every feed-forward.

Or whole experts in place of slices.
Needs no torch, since it is planned for as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llama4_local.config.formats import int4_group
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from llama4_local.config.formats import WeightFormat
    from llama4_local.config.model import ModelConfig


_BLOCK = 64  # tokens


@dataclass(frozen=True, slots=True)
class Share:
    """The place of a rank among the others.

    Args:
        rank: From 0.
        size: Number of ranks.
        whole_experts: Whether each rank has some of the routed experts, whole, and the whole shared one; otherwise each
            has a slice of every expert.

    Raises:
        InvalidRequest: A rank that is not one of `size`.
    """

    rank: int
    size: int
    whole_experts: bool = False

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 <= self.rank < self.size:
            raise InvalidRequest(f"rank {self.rank} is not one of {self.size} ranks")

    def range(self, count: int) -> tuple[int, int]:
        """Return start and stop of this rank's part of `count` things; the last parts may be shorter."""
        each = -(-count // self.size)
        return min(count, self.rank * each), min(count, (self.rank + 1) * each)

    def vocabulary(self, count: int) -> tuple[int, int]:
        """Return the first token of this rank's part of a vocabulary, and the one behind its last.

        Parts of large vocabularies hold whole blocks of 64: kernels read 16 bytes at once only where rows begin so.
        """
        if count < _BLOCK * self.size**2:
            return self.range(count)
        first, last = self.range(-(-count // _BLOCK))
        return min(count, first * _BLOCK), min(count, last * _BLOCK)

    def experts(self, count: int) -> tuple[int, int]:
        """Return the first of `count` routed experts of which this rank has any part, and the one behind its last."""
        return self.range(count) if self.whole_experts else (0, count)

    def config(self, config: ModelConfig) -> ModelConfig:
        """Return the shape of this rank's part of a network; its vocabulary is whole, and its router."""
        text = config.text
        return replace(
            config,
            text=replace(
                text,
                heads=text.heads // self.size,
                kv_heads=text.kv_heads // self.size,
                expert_size=text.expert_size // (1 if self.whole_experts else self.size),
                dense_size=text.dense_size // self.size,
            ),
        )


def checked_ranks(ranks: object) -> int:
    """Return a number of ranks as it was given.

    Raises:
        InvalidRequest: It is no whole number of at least 1.
    """
    if isinstance(ranks, bool) or not isinstance(ranks, int) or ranks < 1:
        raise InvalidRequest(f"tensor_parallel is a whole number of at least 1, got {str(ranks)[:80]!r}.")
    return ranks


def checked_share(tensor_parallel: object, expert_parallel: object) -> Share:
    """Return rank 0 of a division as it was given.

    Raises:
        InvalidRequest: A number of ranks that is none, or whole experts for one rank, which has all of them.
    """
    ranks = checked_ranks(tensor_parallel)
    if not isinstance(expert_parallel, bool):
        raise InvalidRequest(f"expert_parallel is True or False, got {str(expert_parallel)[:80]!r}.")
    if expert_parallel and ranks == 1:
        raise InvalidRequest(
            "expert_parallel=True divides the experts among ranks: give their number too, as in tensor_parallel=2, or "
            "leave it out."
        )
    return Share(0, ranks, expert_parallel)


WHOLE = Share(0, 1)  # of a network that one process runs


def check_split(config: ModelConfig, share: Share, *, quantize: WeightFormat | None = None) -> None:
    """Refuse a number of ranks that a network cannot be divided among.

    Raises:
        InvalidRequest: It proposes the numbers that can.
    """
    text = config.text
    if share.whole_experts and not any(text.moe_layers):
        raise InvalidRequest("expert_parallel=True divides experts, and this network has none; leave it out.")
    if share.size == 1 or divides(config, share, quantize=quantize):
        return
    experts = f"{text.experts} whole experts" if share.whole_experts else f"experts of {text.expert_size}"
    possible = possible_sizes(config, quantize=quantize, whole_experts=share.whole_experts)
    named = ", ".join(map(str, possible[1:] if share.whole_experts else possible)) or "none with expert_parallel=True"
    raise InvalidRequest(
        f"tensor_parallel={share.size} does not divide this network ({text.kv_heads} key/value heads, {experts}, dense "
        f"layers of {text.dense_size}{', int4 groups' if quantize == 'int4' else ''}); possible: "
        f"{named}.{_otherwise(config, share, quantize)}"
    )


def _otherwise(config: ModelConfig, share: Share, quantize: WeightFormat | None) -> str:
    """Propose the other way to divide experts, where that is possible."""
    whole = not share.whole_experts
    other = divides(config, replace(share, whole_experts=whole), quantize=quantize)
    return f" With expert_parallel={whole} it does." if other else ""


def possible_sizes(
    config: ModelConfig, *, quantize: WeightFormat | None = None, whole_experts: bool = False
) -> tuple[int, ...]:
    """Return the numbers of ranks that a network can be divided among, 1 the first."""
    sizes = range(2, config.text.kv_heads + 1)
    return (1, *(size for size in sizes if divides(config, Share(0, size, whole_experts), quantize=quantize)))


def divides(config: ModelConfig, share: Share, *, quantize: WeightFormat | None = None) -> bool:
    """Whether a network can be divided so; only one with experts has whole ones."""
    text, size = config.text, share.size
    if share.whole_experts and not any(text.moe_layers):
        return False
    widths = [] if all(text.moe_layers) else [text.dense_size]
    widths += [text.expert_size] if any(text.moe_layers) and not share.whole_experts else []
    counts = [text.heads, text.kv_heads, *widths, *([text.experts] if share.whole_experts else [])]
    whole = all(count % size == 0 for count in counts)
    if quantize != "int4" or not whole:
        return whole and text.vocab_size > size * size
    # Of other groups the packed form would be another, and so would be the answers.
    inputs = [*widths, text.heads * text.head_dim]
    return all(int4_group(count) == int4_group(count // size) for count in inputs)
