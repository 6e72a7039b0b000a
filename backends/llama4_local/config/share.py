"""One rank's share of a network: whole heads, and equal slices of every feed-forward and of the vocabulary.

Needs no torch, since it is planned for as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llama4_local.config.formats import int4_group
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from llama4_local.config.formats import WeightFormat
    from llama4_local.config.model import ModelConfig, TextConfig


_BLOCK = 64  # tokens


@dataclass(frozen=True, slots=True)
class Share:
    """The place of a rank among the others.

    Args:
        rank: From 0.
        size: Number of ranks.

    Raises:
        InvalidRequest: A rank that is not one of `size`.
    """

    rank: int
    size: int

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

    def config(self, config: ModelConfig) -> ModelConfig:
        """Return the shape of this rank's part of a network, its vocabulary whole."""
        text = config.text
        return replace(
            config,
            text=replace(
                text,
                heads=text.heads // self.size,
                kv_heads=text.kv_heads // self.size,
                expert_size=text.expert_size // self.size,
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


WHOLE = Share(0, 1)  # of a network that one process runs
INT4_IS_WHOLE = (
    "This checkpoint is published in int4, which tensor_parallel= does not divide yet; give the checkpoint in bf16 "
    "with quantize='int4', or leave tensor_parallel= out."
)

HEAD_IS_WHOLE = "head_dtype='fp8' packs the head of one process; leave it or tensor_parallel= out."


def check_split(config: ModelConfig, size: int, *, quantize: WeightFormat | None = None) -> None:
    """Refuse a number of ranks that a network cannot be divided among.

    Raises:
        InvalidRequest: It proposes the numbers that can.
    """
    if size == 1 or _divides(config.text, size, quantize):
        return
    possible = possible_sizes(config, quantize=quantize)
    raise InvalidRequest(
        f"tensor_parallel={size} does not divide this network ({config.text.kv_heads} key/value heads, experts of "
        f"{config.text.expert_size}, dense layers of {config.text.dense_size}"
        f"{', int4 groups' if quantize == 'int4' else ''}); possible: {', '.join(map(str, possible))}."
    )


def possible_sizes(config: ModelConfig, *, quantize: WeightFormat | None = None) -> tuple[int, ...]:
    """Return the numbers of ranks that a network can be divided among, 1 the first."""
    sizes = range(2, config.text.kv_heads + 1)
    return (1, *(size for size in sizes if _divides(config.text, size, quantize)))


def _divides(text: TextConfig, size: int, quantize: WeightFormat | None) -> bool:
    widths = [text.expert_size] if any(text.moe_layers) else []
    widths += [] if all(text.moe_layers) else [text.dense_size]
    whole = text.heads % size == text.kv_heads % size == 0 and all(width % size == 0 for width in widths)
    if quantize != "int4" or not whole:
        return whole and text.vocab_size > size * size
    # Of other groups the packed form would be another, and so would be the answers.
    inputs = [*widths, text.heads * text.head_dim]
    return all(int4_group(count) == int4_group(count // size) for count in inputs)
