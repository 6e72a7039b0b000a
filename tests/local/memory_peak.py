"""Measures how much memory torch takes on the CPU at most while something runs."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Self

from torch.autograd.profiler import profile

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import TracebackType


class MemoryPeak:
    """Counts what torch's allocator hands out and takes back within the block.

    with MemoryPeak() as measured:
        …
    measured.peak  # bytes above what was there before

    Args:
        mapped: Sizes of files whose mappings do not count: torch calls each an allocation of the whole file.
    """

    def __init__(self, mapped: Collection[int] = ()) -> None:
        self._mapped = mapped
        self._profile = profile(profile_memory=True)
        self.peak = 0

    def __enter__(self) -> Self:
        self._profile.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._profile.__exit__(kind, error, trace)
        results = self._profile.kineto_results
        if results is None:
            raise RuntimeError("the profiler has no results")
        events = [event for event in results.events() if event.name() == "[memory]"]
        changes: list[int] = [event.nbytes() for event in events]  # pyright: ignore[reportAttributeAccessIssue] # not in torch's stubs
        self.peak = max(accumulate(change for change in changes if abs(change) not in self._mapped), default=0)
