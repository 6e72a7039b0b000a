"""Page tables and page allocators of the cache: pure bookkeeping, no tensor is involved.

Global layers keep keys and values of a whole sequence. Chunk-local layers attend within their chunk only, so a
sequence releases all its local pages at a chunk edge: at any length it holds at most one chunk of them. A model
without chunks has only the global pool.

Page 0 of each pool is the null page, which belongs to no sequence: page tables are padded with it, and the padding
rows of steps of a fixed shape write there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llama4_local.config.invariant import BrokenInvariant
from llama4sdk.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PoolName = Literal["global", "local"]
NULL_PAGE = 0


class PagePool:
    """Allocates pages 1 to `pages` and counts the references to each.

    Args:
        pages: Pages in the pool.
        name: The pool's name in errors.
    """

    def __init__(self, pages: int, name: PoolName = "global") -> None:
        self.pages = pages
        self.name: PoolName = name
        self.on_single: Callable[[int], None] | None = None  # called with a page whose references fall to one
        self._references = [0] * (pages + 1)
        self._free = list(range(pages, NULL_PAGE, -1))

    @property
    def free(self) -> int:
        """Pages without a reference."""
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """Return `count` pages, each with one reference.

        Raises:
            Overloaded: Fewer are free; none is taken then.
        """
        if count > self.free:
            raise Overloaded(f"{count} {self.name} cache pages are needed and {self.free} are free")
        taken = [self._free.pop() for _ in range(count)]
        for page in taken:
            self._references[page] = 1
        return taken

    def share(self, pages: Iterable[int]) -> None:
        """Add one reference to each page, which must be allocated."""
        for page in pages:
            self._check_allocated(page)
            self._references[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """Drop one reference to each page; a page without any is free again."""
        for page in pages:
            self._check_allocated(page)
            self._references[page] -= 1
            if self._references[page] == 0:
                self._free.append(page)
            elif self._references[page] == 1 and self.on_single is not None:
                self.on_single(page)

    def is_shared(self, page: int) -> bool:
        """Whether a page has more than one reference, so that it must not be written to."""
        return self._references[page] > 1

    def _check_allocated(self, page: int) -> None:
        if not NULL_PAGE < page <= self.pages or self._references[page] == 0:
            raise BrokenInvariant(f"{self.name} page {page} is not allocated")


@dataclass(frozen=True, slots=True)
class CacheShape:
    """The division of a cache into pages.

    Args:
        global_pages: Pages of the global pool.
        local_pages: Pages of the chunk-local pool; 0 without chunks.
        page_size: Tokens in a page; divides the chunk.
        chunk: Tokens of an attention chunk, or None.
    """

    global_pages: int
    local_pages: int
    page_size: int
    chunk: int | None

    def __post_init__(self) -> None:
        if self.page_size < 1 or (self.chunk is not None and self.chunk % self.page_size):
            raise BrokenInvariant(f"page_size must divide the attention chunk of {self.chunk}, got {self.page_size}")

    def pages_for(self, tokens: int) -> int:
        """Return the pages that hold `tokens` tokens of one sequence."""
        return -(-tokens // self.page_size)

    def local_pages_for(self, tokens: int) -> int:
        """Return the most local pages that a sequence of `tokens` tokens ever holds."""
        return 0 if self.chunk is None else self.pages_for(min(tokens, self.chunk))


@dataclass(frozen=True, slots=True)
class PageCopy:
    """A page whose content must be copied before the next step, because its writer shares it."""

    pool: PoolName
    source: int
    target: int


class PageAllocators:
    """The allocators of a cache's two pools."""

    def __init__(self, shape: CacheShape) -> None:
        self.shape = shape
        self.global_pool = PagePool(shape.global_pages, "global")
        self.local_pool = PagePool(shape.local_pages, "local")

    def sequence(self, origin: int = 0) -> SequencePages:
        """Return the page table of a new, empty sequence.

        Args:
            origin: Position of its first token.

        Raises:
            BrokenInvariant: The origin is no chunk edge.
        """
        return SequencePages(self, origin)


class SequencePages:
    """The page table of one sequence.

    `global_pages[i]` holds tokens `i·page_size` and on; `local_pages[i]` the same, counted from the start
    of the chunk that the last token lies in. Where the sequence goes on from text that is not in the cache,
    `origin` is the position of its first token; chunks are counted alike, for it is a multiple of the chunk.
    """

    def __init__(self, pages: PageAllocators, origin: int = 0) -> None:
        if origin < 0 or (pages.shape.chunk is not None and origin % pages.shape.chunk):
            raise BrokenInvariant(f"a sequence begins at a multiple of the chunk of {pages.shape.chunk}, got {origin}")
        self._pages = pages
        self.shape = pages.shape
        self.origin = origin
        self.length = 0
        self.global_pages: list[int] = []
        self.local_pages: list[int] = []

    def room_in_chunk(self) -> int | None:
        """Return how many tokens the next step may add before a chunk edge; None without chunks."""
        chunk = self.shape.chunk
        return None if chunk is None else chunk - self.length % chunk

    def pages_needed(self, count: int) -> tuple[int, int]:
        """Return how many pages `extend(count)` takes from the global and the local pool.

        Local pages that it releases first, at a chunk edge, are not deducted.
        """
        whole = self._needed(self._pages.global_pool, self.global_pages, self.length, count)
        if self.shape.chunk is None:
            return whole, 0
        start = self.length % self.shape.chunk
        return whole, self._needed(self._pages.local_pool, self.local_pages if start else [], start, count)

    def extend(self, count: int) -> tuple[PageCopy, ...]:
        """Make room for the next `count` tokens, which the next step writes.

        Returns:
            Pages to copy first (see `KvCache.copy`), where a partly filled page is shared.

        Raises:
            BrokenInvariant: The tokens would cross a chunk edge.
            Overloaded: Too few pages are free; none is taken then.
        """
        room = self.room_in_chunk()
        if count < 1 or (room is not None and count > room):
            limit = "" if room is None else f" and at most the {room} before the chunk edge"
            raise BrokenInvariant(f"a step takes at least 1 token of a sequence{limit}, got {count}")
        self._leave_chunk()
        for pool, needed in zip(self._pools(), self.pages_needed(count), strict=True):
            if needed > pool.free:
                raise Overloaded(f"{needed} {pool.name} cache pages are needed and {pool.free} are free")
        copies = self._grow(self._pages.global_pool, self.global_pages, self.length, count)
        if self.shape.chunk is not None:
            start = self.length % self.shape.chunk
            copies += self._grow(self._pages.local_pool, self.local_pages, start, count)
        self.length += count
        return tuple(copies)

    def retract(self, count: int) -> None:
        """Take back the last `count` tokens of the last `extend`, of which at least one stays."""
        self.length -= count
        self._trim(self._pages.global_pool, self.global_pages, self.length)
        if self.shape.chunk is not None:
            self._trim(self._pages.local_pool, self.local_pages, (self.length - 1) % self.shape.chunk + 1)

    def fork(self) -> SequencePages:
        """Return a second sequence with the same tokens so far, sharing every page."""
        twin = SequencePages(self._pages, self.origin)
        twin.length = self.length
        twin.global_pages = list(self.global_pages)
        twin.local_pages = list(self.local_pages)
        self._pages.global_pool.share(twin.global_pages)
        self._pages.local_pool.share(twin.local_pages)
        return twin

    def release(self) -> None:
        """Release all pages; the sequence is empty again."""
        self._pages.global_pool.release(self.global_pages)
        self._pages.local_pool.release(self.local_pages)
        self.global_pages, self.local_pages, self.length = [], [], 0

    def _pools(self) -> tuple[PagePool, PagePool]:
        return self._pages.global_pool, self._pages.local_pool

    def _leave_chunk(self) -> None:
        if self.shape.chunk is not None and self.length % self.shape.chunk == 0:
            self._pages.local_pool.release(self.local_pages)
            self.local_pages = []

    def _needed(self, pool: PagePool, pages: list[int], filled: int, count: int) -> int:
        return self.shape.pages_for(filled + count) - len(pages) + self._shared_tail(pool, pages, filled)

    def _shared_tail(self, pool: PagePool, pages: list[int], filled: int) -> int:
        return int(filled % self.shape.page_size != 0 and pool.is_shared(pages[-1]))

    def _trim(self, pool: PagePool, pages: list[int], filled: int) -> None:
        kept = self.shape.pages_for(filled)
        pool.release(pages[kept:])
        del pages[kept:]

    def _grow(self, pool: PagePool, pages: list[int], filled: int, count: int) -> list[PageCopy]:
        copies: list[PageCopy] = []
        if self._shared_tail(pool, pages, filled):
            (own,) = pool.take(1)
            copies.append(PageCopy(pool.name, pages[-1], own))
            pool.release([pages[-1]])
            pages[-1] = own
        pages += pool.take(self.shape.pages_for(filled + count) - len(pages))
        return copies


def default_page_size(chunk: int | None, largest: int = 64) -> int:
    """Return the largest page size up to `largest` tokens that divides the chunk."""
    if chunk is None:
        return largest
    return max(size for size in range(1, min(largest, chunk) + 1) if chunk % size == 0)
