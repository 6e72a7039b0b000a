"""One step's work as flat tensors: tokens of several sequences side by side, without padding.

Reference functions and kernels read the same batch. Host-side numbers (`segments`) let the reference loop
without asking the device; everything a kernel needs is in the tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from llama4_local.cache.page_table import NULL_PAGE
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llama4_local.cache.page_table import PoolName, SequencePages


@dataclass(frozen=True, slots=True)
class SequenceInput:
    """The next tokens of one sequence, whose pages already reach past them.

    Args:
        pages: The sequence, after `extend(len(token_ids))`.
        token_ids: Tokens to write; they never cross a chunk edge, since `extend` refuses that.
        features: [placeholders in token_ids, hidden]: what replaces the embeddings of image
            placeholders among them, on the model's device; None treats placeholders as ordinary tokens.
    """

    pages: SequencePages
    token_ids: Sequence[int]
    features: Tensor | None = None

    @property
    def position(self) -> int:
        """How many tokens of its sequence the cache holds before these."""
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
    """Where a step's tokens lie in one of the cache's pools.

    Args:
        slots: [tokens], int64: `page · page_size + offset` that each token's key and value go to.
        pages: [segments, widest], int64: each sequence's pages in order, padded with the null page.
        contexts: For each segment, the keys that its last token sees in this pool.
        context_lengths: The same as a tensor, [segments], int64.
    """

    slots: Tensor
    pages: Tensor
    contexts: tuple[int, ...]
    context_lengths: Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """What `forward` works on in one step.

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
        """Row of each segment's last token, [segments]: where the next token is predicted."""
        return self.starts[1:] - 1


def build_batch(
    works: Sequence[SequenceInput], *, image_token_id: int | None = None, device: str | torch.device = "cpu"
) -> Batch:
    """Lay the work of one step out flat.

    Args:
        works: At least one, each of another sequence.
        image_token_id: The image placeholder.
        device: Where the tensors go.

    Raises:
        InvalidRequest: Nothing to do, or features that do not match the placeholders in number.
    """
    segments = _segments(works)
    if not segments:
        raise InvalidRequest("a step needs at least one token")
    rows = _image_rows(works, segments, image_token_id)
    features = [work.features for work in works if work.features is not None and len(work.features)]
    shape = works[0].pages.shape
    tables: dict[PoolName, PoolTable] = {
        "global": _table([work.pages.global_pages for work in works], segments, shape.page_size, None, device)
    }
    if shape.chunk is not None:
        local = [work.pages.local_pages for work in works]
        tables["local"] = _table(local, segments, shape.page_size, shape.chunk, device)
    return Batch(
        token_ids=_tensor([token for work in works for token in work.token_ids], device),
        positions=_tensor(_positions(works, segments), device),
        segments=segments,
        starts=_tensor([s.start for s in segments] + [segments[-1].start + segments[-1].length], device),
        tables=tables,
        image_rows=_tensor(rows, device),
        image_features=torch.cat(features) if features else None,
    )


def _tensor(values: list[int] | list[list[int]], device: str | torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device=device)


def _segments(works: Sequence[SequenceInput]) -> tuple[Segment, ...]:
    found: list[Segment] = []
    start = 0
    for work in works:
        if not work.token_ids or work.position < 0:
            raise InvalidRequest("every sequence of a step needs tokens and pages that hold them")
        found.append(Segment(start, len(work.token_ids), work.position))
        start += len(work.token_ids)
    return tuple(found)


def _positions(works: Sequence[SequenceInput], segments: Sequence[Segment]) -> list[int]:
    firsts = [work.pages.origin + segment.position for work, segment in zip(works, segments, strict=True)]
    return [first + i for first, segment in zip(firsts, segments, strict=True) for i in range(segment.length)]


def _image_rows(works: Sequence[SequenceInput], segments: Sequence[Segment], image_token_id: int | None) -> list[int]:
    rows: list[int] = []
    for work, segment in zip(works, segments, strict=True):
        if work.features is None:
            continue
        own = [segment.start + i for i, token in enumerate(work.token_ids) if token == image_token_id]
        if len(own) != len(work.features):
            raise InvalidRequest(f"{len(own)} image placeholders but {len(work.features)} features")
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
