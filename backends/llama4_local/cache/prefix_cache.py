"""The prefix cache: full pages found by their content, so that prompts which begin alike are computed once.

A page hash is a chain of SHA-256 over everything up to the page's end: the caller's salt, the token ids, and the
pixels of images. The cache holds one reference to each of its pages; a page with no other reference is evicted,
least recently used first, when a sequence needs room.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llama4_local.cache.page_table import PageAllocators, PagePool, SequencePages


class PageHashes:
    """The hashes of one sequence's full pages, as it grows.

    Args:
        page_size: Tokens in a page.
        salt: Sequences share pages only with the same salt.
        images: For each image the position of its first token and the SHA-256 of its pixels, in order.
    """

    def __init__(self, page_size: int, salt: str = "", images: Iterable[tuple[int, str]] = ()) -> None:
        self._page_size = page_size
        self._images = tuple(images)
        self._last = hashlib.sha256(salt.encode()).digest()
        self.hashes: list[bytes] = []

    def cover(self, tokens: Sequence[int], end: int) -> None:
        """Hash every full page of `tokens[:end]` that has no hash yet."""
        for page in range(len(self.hashes), end // self._page_size):
            first = page * self._page_size
            last = first + self._page_size
            content = hashlib.sha256(self._last)
            content.update(array("q", tokens[first:last]).tobytes())
            for position, digest in self._images:
                if first <= position < last:
                    content.update(f"{position - first}:{digest};".encode())
            self._last = content.digest()
            self.hashes.append(self._last)


class _CachedPages:
    """The cached pages of one pool by hash.

    Pages that may be evicted wait in a line, least recently used first. One that turns out to be in use leaves it, and
    comes back when its last user releases it; so finding room takes time for the evicted pages only.
    """

    def __init__(self, pool: PagePool) -> None:
        self.pool = pool
        self.pages: dict[bytes, int] = {}
        self._line: OrderedDict[bytes, None] = OrderedDict()
        self._in_use: dict[int, bytes] = {}
        pool.on_single = self._came_back

    def add(self, page_hash: bytes, page: int) -> None:
        if page_hash not in self.pages:
            self.pool.share([page])
            self.pages[page_hash] = page
            self._line[page_hash] = None

    def evict(self, page_hash: bytes) -> None:
        page = self.pages.pop(page_hash, None)
        if page is not None:
            self._line.pop(page_hash, None)
            self._in_use.pop(page, None)
            self.pool.release([page])

    def touch(self, page_hash: bytes) -> None:
        if page_hash in self._line:
            self._line.move_to_end(page_hash)

    def make_room(self, needed: int) -> bool:
        while self.pool.free < needed and self._line:
            page_hash = next(iter(self._line))
            page = self.pages[page_hash]
            if self.pool.is_shared(page):
                del self._line[page_hash]
                self._in_use[page] = page_hash
            else:
                self.evict(page_hash)
        return self.pool.free >= needed

    def _came_back(self, page: int) -> None:
        page_hash = self._in_use.pop(page, None)
        if page_hash is not None:
            self._line[page_hash] = None


class PrefixCache:
    """Finds, adds and evicts pages of both pools.

    Args:
        pages: The allocators of the pages.
        enabled: Whether any page is cached.
    """

    def __init__(self, pages: PageAllocators, *, enabled: bool = True) -> None:
        self._shape = pages.shape
        self._global = _CachedPages(pages.global_pool)
        self._local = _CachedPages(pages.local_pool)
        self._enabled = enabled

    @property
    def size(self) -> tuple[int, int]:
        """Cached pages of the global and the local pool."""
        return len(self._global.pages), len(self._local.pages)

    def attach(self, pages: SequencePages, hashes: Sequence[bytes]) -> int:
        """Give an empty sequence the pages of its longest cached prefix.

        Args:
            pages: The sequence's page table, empty.
            hashes: Hashes of the pages that it may reuse, from its beginning.

        Returns:
            Tokens that need not be computed.
        """
        count = self._longest(hashes)
        used, local = hashes[:count], hashes[self._chunk_start(count) : count]
        pages.global_pages = [self._global.pages[each] for each in used]
        pages.local_pages = [self._local.pages[each] for each in local] if self._shape.chunk is not None else []
        pages.length = count * self._shape.page_size
        self._global.pool.share(pages.global_pages)
        self._local.pool.share(pages.local_pages)
        self.touch(used)
        return pages.length

    def publish(self, pages: SequencePages, hashes: Sequence[bytes], known: int) -> int:
        """Add the full pages of a sequence, from page `known` on.

        Called after the step that computed them, before the sequence leaves their chunk.

        Returns:
            Pages that are known now.
        """
        if not self._enabled:
            return 0
        full = min(pages.length // self._shape.page_size, len(hashes))
        # At a chunk edge the finished chunk's local pages are still there until the next step.
        first_local = self._chunk_start((pages.length - 1) // self._shape.page_size) if pages.length else 0
        for page in range(known, full):
            self._global.add(hashes[page], pages.global_pages[page])
            if 0 <= page - first_local < len(pages.local_pages):
                self._local.add(hashes[page], pages.local_pages[page - first_local])
        return max(known, full)

    def pin(self, hashes: Sequence[bytes]) -> list[int]:
        """Add a reference to the cached global pages of these hashes, up to the first that is missing, and return them.

        Local pages are not pinned: at a chunk edge none are needed, and beyond it they are computed again.
        """
        pages: list[int] = []
        for page_hash in hashes:
            if page_hash not in self._global.pages:
                break
            pages.append(self._global.pages[page_hash])
        self._global.pool.share(pages)
        return pages

    def share(self, pages: Sequence[int]) -> None:
        """Pin pages once more."""
        self._global.pool.share(pages)

    def unpin(self, pages: Sequence[int]) -> None:
        """Release pages that `pin` returned."""
        self._global.pool.release(pages)

    def adopt(self, hashes: Sequence[bytes]) -> list[int]:
        """Allocate a pinned global page for each hash; the caller writes its content.

        Raises:
            Overloaded: There is no room for them.
        """
        self._global.make_room(len(hashes))
        pages = self._global.pool.take(len(hashes))
        for page_hash, page in zip(hashes, pages, strict=True):
            self._global.add(page_hash, page)
        return pages

    def touch(self, hashes: Sequence[bytes]) -> None:
        """Mark pages as just used; later pages of a sequence are evicted before its first ones."""
        for page_hash in reversed(hashes):
            for cached in (self._global, self._local):
                cached.touch(page_hash)

    def make_room(self, global_pages: int, local_pages: int) -> bool:
        """Evict pages until so many are free in each pool; return whether they are."""
        # Both pools make room, even where the first one has none.
        return self._global.make_room(global_pages) & self._local.make_room(local_pages)

    def forget(self, hashes: Iterable[bytes]) -> None:
        """Evict pages whose content is not trusted."""
        for page_hash in hashes:
            self._global.evict(page_hash)
            self._local.evict(page_hash)

    def clear(self) -> None:
        """Evict every page."""
        self.forget([*self._global.pages, *self._local.pages])

    def _chunk_start(self, page: int) -> int:
        """The first page of the chunk that a page lies in."""
        if self._shape.chunk is None:
            return 0
        per_chunk = self._shape.chunk // self._shape.page_size
        return page - page % per_chunk

    def _longest(self, hashes: Sequence[bytes]) -> int:
        """Pages of the longest cached prefix; beyond a chunk edge, local pages must be cached as well."""
        count = next((i for i, each in enumerate(hashes) if each not in self._global.pages), len(hashes))
        while self._shape.chunk is not None and count > (edge := self._chunk_start(count)):
            missing = [page for page in range(edge, count) if hashes[page] not in self._local.pages]
            if not missing:
                break
            count = missing[0]
        return count
