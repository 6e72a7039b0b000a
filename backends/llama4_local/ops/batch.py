"""The batch of one step as flat tensors: tokens of several sequences side by side, without padding.

Reference functions and kernels read the same batch. Host-side numbers (`segments`, `contexts`) let the reference
loop without a device synchronization; kernels read the tensors only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from llama4_local.cache.page_table import NULL_PAGE
from llama4_local.config.invariant import BrokenInvariant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llama4_local.cache.page_table import CacheShape, PoolName, SequencePages


@dataclass(frozen=True, slots=True)
class SequenceInput:
    """The next tokens of one sequence, with pages that reach past them.

    Args:
        pages: The sequence, after `extend(len(token_ids))`.
        token_ids: Tokens to compute; they never cross a chunk edge, since `extend` refuses that.
        features: [placeholders in token_ids, hidden], on the model's device: they replace the embeddings of
            image placeholders; None treats placeholders as ordinary tokens.
    """

    pages: SequencePages
    token_ids: Sequence[int]
    features: Tensor | None = None

    @property
    def position(self) -> int:
        """Tokens of its sequence that precede these in the cache."""
        return self.pages.length - len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows of the flat batch that belong to one sequence.

    Args:
        start: First row.
        length: Number of rows.
        position: Tokens of its sequence in the cache before the first row's.
    """

    start: int
    length: int
    position: int


@dataclass(frozen=True, slots=True)
class PoolTable:
    """The page tables of a step in one of the cache's pools.

    Args:
        slots: [tokens], int64: `page · page_size + offset` of each token's key and value.
        pages: [segments, widest], int64: each sequence's pages in order, padded with the null page.
        contexts: For each segment, the number of keys that its last token attends to in this pool.
        context_lengths: The same as a tensor, [segments], int64.
    """

    slots: Tensor
    pages: Tensor
    contexts: tuple[int, ...]
    context_lengths: Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """The input of `forward` in one step.

    Args:
        token_ids: [tokens], int64.
        positions: [tokens], int64: each token's place in its text, counted from the sequence's origin.
        segments: Host-side layout, in row order. Those of a CUDA graph tell the number of sequences, and whether any
            adds one token, or several; what holds in a step is in the tensors.
        starts: [segments + 1], int64: first row of each segment, then the number of rows.
        tables: Global pool always, local pool where the model has chunks.
        image_rows: [placeholders], int64: rows whose embedding is replaced.
        image_features: [placeholders, hidden], or None without any.
    """

    token_ids: Tensor
    positions: Tensor
    segments: tuple[Segment, ...]
    starts: Tensor
    tables: dict[PoolName, PoolTable]
    image_rows: Tensor
    image_features: Tensor | None

    @property
    def last_rows(self) -> Tensor:
        """Row of each segment's last token, [segments], which predicts the next one."""
        return self.starts[1:] - 1


@dataclass(frozen=True, slots=True)
class StepLayout:
    """The numbers of a step on the host; see `Batch` and `PoolTable` for what they are.

    Args:
        slots: For each pool, of each token.
        contexts: For each pool, of each segment.
    """

    token_ids: list[int]
    positions: list[int]
    segments: tuple[Segment, ...]
    slots: dict[PoolName, list[int]]
    contexts: dict[PoolName, list[int]]
    image_rows: list[int]
    image_features: Tensor | None

    @property
    def starts(self) -> list[int]:
        """First row of each segment, then the number of rows."""
        return [*(segment.start for segment in self.segments), len(self.token_ids)]


def lay_out(inputs: Sequence[SequenceInput], *, image_token_id: int | None = None) -> StepLayout:
    """Return the layout of one step.

    Args:
        inputs: Each of another sequence.
        image_token_id: The image placeholder.

    Raises:
        BrokenInvariant: A sequence without tokens, or features that differ in number from the placeholders.
    """
    segments = _segments(inputs)
    features = [each.features for each in inputs if each.features is not None and len(each.features)]
    pools = pools_of(inputs[0].pages.shape) if inputs else ()
    slots: dict[PoolName, list[int]] = {}
    contexts: dict[PoolName, list[int]] = {}
    for pool in pools:
        slots[pool], contexts[pool] = _places(inputs, segments, pool)
    return StepLayout(
        token_ids=[token for each in inputs for token in each.token_ids],
        positions=_positions(inputs, segments),
        segments=segments,
        slots=slots,
        contexts=contexts,
        image_rows=_image_rows(inputs, segments, image_token_id),
        image_features=torch.cat(features) if features else None,
    )


def build_batch(
    inputs: Sequence[SequenceInput], *, image_token_id: int | None = None, device: str | torch.device = "cpu"
) -> Batch:
    """Return the flat batch of one step.

    Args:
        inputs: At least one, each of another sequence.
        image_token_id: The image placeholder.
        device: Of the tensors.

    Raises:
        BrokenInvariant: No tokens, or features that differ in number from the placeholders.
    """
    layout = lay_out(inputs, image_token_id=image_token_id)
    if not layout.segments:
        raise BrokenInvariant("a step needs at least one token")
    return Batch(
        token_ids=_tensor(layout.token_ids, device),
        positions=_tensor(layout.positions, device),
        segments=layout.segments,
        starts=_tensor(layout.starts, device),
        tables={pool: _table(inputs, layout, pool, device) for pool in layout.slots},
        image_rows=_tensor(layout.image_rows, device),
        image_features=layout.image_features,
    )


def pools_of(shape: CacheShape) -> tuple[PoolName, ...]:
    """Return the pools of a cache."""
    return ("global",) if shape.chunk is None else ("global", "local")


def pages_of(sequence: SequenceInput, pool: PoolName) -> list[int]:
    """Return a sequence's pages in a pool, in order."""
    return sequence.pages.global_pages if pool == "global" else sequence.pages.local_pages


def _tensor(values: list[int] | list[list[int]], device: str | torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device=device)


def _segments(inputs: Sequence[SequenceInput]) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    start = 0
    for each in inputs:
        if not each.token_ids or each.position < 0:
            raise BrokenInvariant("every sequence of a step needs tokens and pages that hold them")
        segments.append(Segment(start, len(each.token_ids), each.position))
        start += len(each.token_ids)
    return tuple(segments)


def _positions(inputs: Sequence[SequenceInput], segments: Sequence[Segment]) -> list[int]:
    firsts = [each.pages.origin + segment.position for each, segment in zip(inputs, segments, strict=True)]
    return [first + i for first, segment in zip(firsts, segments, strict=True) for i in range(segment.length)]


def _image_rows(inputs: Sequence[SequenceInput], segments: Sequence[Segment], image_token_id: int | None) -> list[int]:
    rows: list[int] = []
    for each, segment in zip(inputs, segments, strict=True):
        if each.features is None:
            continue
        own = [segment.start + i for i, token in enumerate(each.token_ids) if token == image_token_id]
        if len(own) != len(each.features):
            raise BrokenInvariant(f"{len(own)} image placeholders but {len(each.features)} features")
        rows += own
    return rows


def _places(
    inputs: Sequence[SequenceInput], segments: Sequence[Segment], pool: PoolName
) -> tuple[list[int], list[int]]:
    """Return the slots and contexts of a pool."""
    shape = inputs[0].pages.shape
    size, chunk = shape.page_size, shape.chunk if pool == "local" else None
    slots: list[int] = []
    contexts: list[int] = []
    for each, segment in zip(inputs, segments, strict=True):
        own = pages_of(each, pool)
        first = segment.position if chunk is None else segment.position % chunk
        slots += [own[at // size] * size + at % size for at in range(first, first + segment.length)]
        contexts.append(first + segment.length)
    return slots, contexts


def _table(
    inputs: Sequence[SequenceInput], layout: StepLayout, pool: PoolName, device: str | torch.device
) -> PoolTable:
    pages = [pages_of(each, pool) for each in inputs]
    width = max(map(len, pages))
    padded = [own + [NULL_PAGE] * (width - len(own)) for own in pages]
    contexts = layout.contexts[pool]
    slots = _tensor(layout.slots[pool], device)
    return PoolTable(slots, _tensor(padded, device), tuple(contexts), _tensor(contexts, device))
