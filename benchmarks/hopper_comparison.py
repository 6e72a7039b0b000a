"""One comparison of a kernel's result, and the batches that attention is compared over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from hopper_inputs import DEVICE
from torch import Tensor

from llama4_local.ops.batch import Batch, PoolTable, Segment


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison."""

    kernel: str
    case: str
    got: Tensor
    expected: Tensor
    limit: float


Case = tuple[str, Callable[[], Iterator[Comparison]]]


def layout(sequences: list[tuple[int, int]], page: int) -> Batch:
    """A batch of (new tokens, context) pairs over shuffled pages."""
    counts = [-(-context // page) for _, context in sequences]
    free = (torch.randperm(sum(counts)) + 1).tolist()
    pages = torch.zeros(len(sequences), max(counts), dtype=torch.int64)
    for i, count in enumerate(counts):
        pages[i, :count] = torch.tensor([free.pop() for _ in range(count)])
    starts = [sum(n for n, _ in sequences[:i]) for i in range(len(sequences) + 1)]
    contexts = tuple(context for _, context in sequences)
    empty = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    table = PoolTable(empty, pages.to(DEVICE), contexts, torch.tensor(contexts, device=DEVICE))
    segments = tuple(Segment(start, n, c - n) for start, (n, c) in zip(starts, sequences, strict=False))
    return Batch(empty, empty, segments, torch.tensor(starts, device=DEVICE), {"global": table}, empty, None)
