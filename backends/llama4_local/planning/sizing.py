"""The bytes that one choice of formats needs, for any context and number of sequences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from llama4_local.checkpoint.cuts import check_int4_groups
from llama4_local.config.formats import (
    CACHE_BYTES,
    CACHE_OF_DTYPE,
    DTYPE_BYTES,
    DType,
    HeadType,
    MatrixFormat,
    Storage,
    WeightFormat,
)
from llama4_local.config.share import WHOLE, Share, check_split
from llama4_local.planning.cache import CacheBytes, plan_cache, step_cache_bytes
from llama4_local.planning.network import WeightBytes, touched_bytes, weight_bytes
from llama4_local.planning.stored import stored_weight_bytes
from llama4_local.planning.workspace import Step, Workspace, plan_workspace
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llama4_local.checkpoint.headers import StoredTensor
    from llama4_local.config.model import ModelConfig

CacheFormat = Literal["auto", "bf16", "fp16", "fp32", "fp8"]

_HEADS: dict[HeadType, MatrixFormat] = {"auto": "plain", "fp8": "fp8"}
_FARTHEST = 2**40  # tokens or sequences; what memory holds is always less


@dataclass(frozen=True, slots=True)
class Sizing:
    """A network, how its numbers are kept, and what runs it; of several ranks, the bytes of rank 0, which has most.

    Args:
        config: The network.
        quantize: How its matrices are packed; None for not at all.
        dtype: Type of plain weights and activations.
        cache_dtype: Type of the cache.
        step_tokens: Most tokens in a step.
        reference: Whether the reference functions run.
        stored: Bytes of the weights, where a checkpoint has formats of its own in which it is loaded.
        share: Rank 0 of those that run it.
        head_dtype: `fp8` where the head is packed.
    """

    config: ModelConfig
    quantize: WeightFormat | None
    dtype: str
    cache_dtype: str
    step_tokens: int
    reference: bool
    stored: WeightBytes | None = None
    share: Share = WHOLE
    head_dtype: HeadType = "auto"

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        *,
        quantize: str | None,
        dtype: str,
        cache_dtype: str,
        step_tokens: int,
        reference: bool,
        tensors: Mapping[str, StoredTensor] | None = None,
        share: Share = WHOLE,
        head_dtype: str = "auto",
    ) -> Sizing:
        """Check the names and fill in what `auto` means.

        Args:
            config: The network.
            quantize: How its matrices are packed.
            dtype: Type of plain weights and activations.
            cache_dtype: Type of the cache.
            step_tokens: Most tokens in a step.
            reference: Whether the reference functions run.
            tensors: Those of a checkpoint that holds matrices in FP8, where its files are there.
            share: Rank 0 of those that run it.
            head_dtype: `fp8` where the head is packed.

        Raises:
            InvalidRequest: No such format or type, int4 of what is in FP8, or ranks that do not divide the network.
        """
        if dtype == "auto":
            dtype = config.dtype if config.dtype in DTYPE_BYTES else "bfloat16"
        cache_dtype = CACHE_OF_DTYPE.get(dtype, "bf16") if cache_dtype == "auto" else cache_dtype
        _check("dtype", dtype, get_args(DType))
        _check("cache_dtype", cache_dtype, get_args(CacheFormat))
        if quantize is not None:
            _check("quantize", quantize, get_args(WeightFormat))
        _check("head_dtype", head_dtype, get_args(HeadType))
        head: HeadType = "fp8" if head_dtype == "fp8" else "auto"
        packing: WeightFormat | None = "int4" if quantize == "int4" else "fp8" if quantize == "fp8" else None
        check_split(config, share, quantize="int4" if config.stored == "int4" and not tensors else packing)
        if tensors is None and config.stored == "plain":
            return cls(config, packing, dtype, cache_dtype, step_tokens, reference, share=share, head_dtype=head)
        if packing not in (None, config.stored):
            held = "int4" if config.stored == "int4" else "FP8"
            raise InvalidRequest(f"This checkpoint is in {held} already, and is loaded as it is; leave quantize= out.")
        if tensors:
            check_int4_groups(tensors, config, share)
        stored = stored_weight_bytes(tensors, DTYPE_BYTES[dtype], share, config.text.experts) if tensors else None
        return cls(config, None, dtype, cache_dtype, step_tokens, reference, stored, share, head)

    @property
    def storage(self) -> Storage:
        """How weights are kept."""
        kind, item, head = self.quantize or "plain", DTYPE_BYTES[self.dtype], _HEADS[self.head_dtype]
        # Checkpoints published in FP8 keep attention in bf16.
        if self.config.stored == "int4":
            return Storage("int4", "int4", item, head)
        return Storage(kind, "fp8" if self.config.fp8 else kind, item, head)

    @property
    def part(self) -> ModelConfig:
        """The shape of rank 0's share."""
        return self.share.config(self.config)

    @property
    def packed(self) -> bool:
        """Whether any matrices are."""
        return (
            self.quantize is not None
            or self.stored is not None
            or self.config.stored != "plain"
            or self.head_dtype != "auto"
        )

    @property
    def cache_itemsize(self) -> int:
        """Bytes of one number in the cache."""
        return CACHE_BYTES[self.cache_dtype]

    def weights(self) -> WeightBytes:
        """Return the bytes of the weights."""
        text = self.config.text
        if self.stored is None:
            return weight_bytes(self.config, self.storage, self.share)
        if self.head_dtype == "auto":
            return self.stored
        first, last = self.share.vocabulary(text.vocab_size)
        return replace(self.stored, head=self.storage.head_bytes(last - first, text.hidden_size))

    def cache(self, context: int, sequences: int) -> CacheBytes:
        """Return the bytes of the cache."""
        return plan_cache(self.part.text, context=context, sequences=sequences, itemsize=self.cache_itemsize)

    def workspace(self, context: int, sequences: int) -> Workspace:
        """Return the bytes that a step works with."""
        step = Step(
            self.step_tokens,
            sequences,
            context,
            DTYPE_BYTES[self.dtype],
            reference=self.reference,
            packed=self.packed,
            ranks=self.share.size,
        )
        return plan_workspace(self.part, step)

    def needed(self, context: int, sequences: int) -> int:
        """Return the bytes of weights, cache and workspace together."""
        return self.weights().total + self.cache(context, sequences).total + self.workspace(context, sequences).total

    def step_bytes(self, context: int, batch: int) -> tuple[float, float]:
        """Return the bytes of weights and of cache that a step reads which gives each of `batch` sequences a token."""
        cache = step_cache_bytes(self.part.text, context=context, itemsize=self.cache_itemsize)
        return touched_bytes(self.weights(), self.config.text.experts, batch, self.share), batch * cache

    def link_bytes(self, batch: int) -> int:
        """Return the bytes that a rank gets from the others in such a step.

        For each sum the parts of all others, two sums in each layer. Where experts are whole, their rows travel in
        place of the second, each from one rank: all but the rank's own, one in as many as there are ranks.
        """
        text, others = self.config.text, self.share.size - 1
        whole = sum(text.moe_layers) if self.share.whole_experts else 0
        rows = (2 * text.layers - whole) * others + whole * others / self.share.size
        return round(rows * text.hidden_size * DTYPE_BYTES[self.dtype] * batch)

    def longest_context(self, memory: int, sequences: int) -> int:
        """Return the most tokens that each of `sequences` sequences may have; 0 where not even one fits."""
        return _most(lambda context: self.needed(context, sequences) <= memory)

    def most_sequences(self, memory: int, context: int) -> int:
        """Return the most sequences of `context` tokens that fit; 0 where not even one does."""
        return _most(lambda sequences: self.needed(context, sequences) <= memory)

    def changed(self, *, quantize: WeightFormat | None = None, cache_dtype: str | None = None) -> Sizing:
        """Return the same with other formats.

        Raises:
            InvalidRequest: Its matrices cannot be packed that way among so many ranks.
        """
        if quantize is not None:
            check_split(self.config, self.share, quantize=quantize)
        return replace(self, quantize=quantize or self.quantize, cache_dtype=cache_dtype or self.cache_dtype)

    def over(self, ranks: int) -> Sizing:
        """Return the same over another number of ranks; only of a network without `stored` bytes."""
        return replace(self, share=replace(self.share, size=ranks))


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidRequest(f"{name} is one of {', '.join(known)}, got {str(value)[:80]!r}.")


def _most(fits: Callable[[int], bool]) -> int:
    """Return the largest count that fits, by bisection: what fits with more fits with fewer."""
    fewest, most = 0, 1
    while most < _FARTHEST and fits(most):
        fewest, most = most, most * 2
    while most - fewest > 1:
        middle = (fewest + most) // 2
        fewest, most = (middle, most) if fits(middle) else (fewest, middle)
    return fewest
