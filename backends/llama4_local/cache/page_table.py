"""Who holds which page of the cache: pure bookkeeping, no tensor is involved.

Global layers keep keys and values of a whole sequence. Chunk-local layers never look past their chunk,
so a sequence gives all its local pages back when it steps over a chunk edge: at any length it holds at
most one chunk of them. A model without chunks has only the global pool.

Page 0 of each pool is nobody's: page tables are padded with it, and steps of a fixed shape let their
padding write there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llama4sdk.errors import InvalidRequest, Overloaded

if TYPE_CHECKING:
    from collections.abc import Iterable

PoolName = Literal["global", "local"]
NULL_PAGE = 0


class PagePool:
    """Hands out pages 1 to `pages` and counts who refers to each; no tensor is involved.

    Args:
        pages: Pages that can be out at once.
        name: What errors call the pool.
    """

    def __init__(self, pages: int, name: PoolName = "global") -> None:
        self.pages = pages
        self.name: PoolName = name
        self._references = [0] * (pages + 1)
        self._free = list(range(pages, NULL_PAGE, -1))

    @property
    def free(self) -> int:
        """Pages that nobody refers to."""
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """Return `count` pages, each referred to once.

        Raises:
            Overloaded: Fewer are free; none is taken then.
        """
        if count > self.free:
            raise Overloaded(f"{count} {self.name} cache pages are wanted and {self.free} are free")
        taken = [self._free.pop() for _ in range(count)]
        for page in taken:
            self._references[page] = 1
        return taken

    def share(self, pages: Iterable[int]) -> None:
        """Add one reference to each page, which must be out."""
        for page in pages:
            self._check_out(page)
            self._references[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """Drop one reference to each page; a page without any is free again."""
        for page in pages:
            self._check_out(page)
            self._references[page] -= 1
            if self._references[page] == 0:
                self._free.append(page)

    def is_shared(self, page: int) -> bool:
        """Whether more than one holder refers to a page, so that nobody may write to it."""
        return self._references[page] > 1

    def _check_out(self, page: int) -> None:
        if not NULL_PAGE < page <= self.pages or self._references[page] == 0:
            raise ValueError(f"{self.name} page {page} is not out")


@dataclass(frozen=True, slots=True)
class CacheShape:
    """How a cache is divided.

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
            raise InvalidRequest(f"page_size must divide the attention chunk of {self.chunk}, got {self.page_size}")

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
    """The page allocators of a cache: what a scheduler asks before it admits a sequence."""

    def __init__(self, shape: CacheShape) -> None:
        self.shape = shape
        self.global_pool = PagePool(shape.global_pages, "global")
        self.local_pool = PagePool(shape.local_pages, "local")

    def sequence(self, origin: int = 0) -> SequencePages:
        """Return the page table of a new, empty sequence.

        Args:
            origin: Position of its first token.

        Raises:
            InvalidRequest: The origin is no chunk edge.
        """
        return SequencePages(self, origin)


class SequencePages:
    """The pages of one sequence.

    `global_pages[i]` holds tokens `i·page_size` and on; `local_pages[i]` the same, counted from the start
    of the chunk that the last token lies in. Where the sequence goes on from text that is not in the cache,
    `origin` is the position of its first token; chunks are counted alike, for it is a multiple of the chunk.
    """

    def __init__(self, pages: PageAllocators, origin: int = 0) -> None:
        if origin < 0 or (pages.shape.chunk is not None and origin % pages.shape.chunk):
            raise InvalidRequest(f"a sequence begins at a multiple of the chunk of {pages.shape.chunk}, got {origin}")
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

    def pages_wanted(self, count: int) -> tuple[int, int]:
        """Return how many pages `extend(count)` takes from the global and the local pool.

        Local pages that it gives back first, at a chunk edge, are not deducted.
        """
        whole = self._wanted(self._pages.global_pool, self.global_pages, self.length, count)
        if self.shape.chunk is None:
            return whole, 0
        start = self.length % self.shape.chunk
        return whole, self._wanted(self._pages.local_pool, self.local_pages if start else [], start, count)

    def extend(self, count: int) -> tuple[PageCopy, ...]:
        """Make room for the next `count` tokens, which the next step writes.

        Returns:
            Pages to copy first (see `KvCache.copy`), where a partly filled page is shared.

        Raises:
            InvalidRequest: The tokens would cross a chunk edge.
            Overloaded: Too few pages are free; none is taken then.
        """
        room = self.room_in_chunk()
        if count < 1 or (room is not None and count > room):
            limit = "" if room is None else f" and at most the {room} before the chunk edge"
            raise InvalidRequest(f"a step takes at least 1 token of a sequence{limit}, got {count}")
        self._leave_chunk()
        for pool, wanted in zip(self._pools(), self.pages_wanted(count), strict=True):
            if wanted > pool.free:
                raise Overloaded(f"{wanted} {pool.name} cache pages are wanted and {pool.free} are free")
        copies = self._grow(self._pages.global_pool, self.global_pages, self.length, count)
        if self.shape.chunk is not None:
            start = self.length % self.shape.chunk
            copies += self._grow(self._pages.local_pool, self.local_pages, start, count)
        self.length += count
        return tuple(copies)

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
        """Give all pages back; the sequence is empty again."""
        self._pages.global_pool.release(self.global_pages)
        self._pages.local_pool.release(self.local_pages)
        self.global_pages, self.local_pages, self.length = [], [], 0

    def _pools(self) -> tuple[PagePool, PagePool]:
        return self._pages.global_pool, self._pages.local_pool

    def _leave_chunk(self) -> None:
        if self.shape.chunk is not None and self.length % self.shape.chunk == 0:
            self._pages.local_pool.release(self.local_pages)
            self.local_pages = []

    def _wanted(self, pool: PagePool, pages: list[int], filled: int, count: int) -> int:
        return self.shape.pages_for(filled + count) - len(pages) + self._shared_tail(pool, pages, filled)

    def _shared_tail(self, pool: PagePool, pages: list[int], filled: int) -> int:
        return int(filled % self.shape.page_size != 0 and pool.is_shared(pages[-1]))

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
