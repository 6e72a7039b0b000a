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

    from llama4_local.cache.page_table import PoolName, SequencePages


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
        segments: Host-side layout, in row order.
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
    segments = _segments(inputs)
    if not segments:
        raise BrokenInvariant("a step needs at least one token")
    rows = _image_rows(inputs, segments, image_token_id)
    features = [each.features for each in inputs if each.features is not None and len(each.features)]
    shape = inputs[0].pages.shape
    tables: dict[PoolName, PoolTable] = {
        "global": _table([each.pages.global_pages for each in inputs], segments, shape.page_size, None, device)
    }
    if shape.chunk is not None:
        local = [each.pages.local_pages for each in inputs]
        tables["local"] = _table(local, segments, shape.page_size, shape.chunk, device)
    return Batch(
        token_ids=_tensor([token for each in inputs for token in each.token_ids], device),
        positions=_tensor(_positions(inputs, segments), device),
        segments=segments,
        starts=_tensor([s.start for s in segments] + [segments[-1].start + segments[-1].length], device),
        tables=tables,
        image_rows=_tensor(rows, device),
        image_features=torch.cat(features) if features else None,
    )


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


def _table(
    pages: list[list[int]],
    segments: Sequence[Segment],
    page_size: int,
    chunk: int | None,
    device: str | torch.device,
) -> PoolTable:
    slots: list[int] = []
    contexts: list[int] = []
    for own, segment in zip(pages, segments, strict=True):
        first = segment.position if chunk is None else segment.position % chunk
        places = range(first, first + segment.length)
        slots += [own[place // page_size] * page_size + place % page_size for place in places]
        contexts.append(first + segment.length)
    width = max(len(own) for own in pages)
    padded = [own + [NULL_PAGE] * (width - len(own)) for own in pages]
    return PoolTable(_tensor(slots, device), _tensor(padded, device), tuple(contexts), _tensor(contexts, device))
