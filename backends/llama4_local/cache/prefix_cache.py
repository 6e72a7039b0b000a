"""Pages kept for their content, so that prompts which begin alike are computed once.

A full page is named by a chain of SHA-256 over everything up to its end: the caller's salt, the token ids, and the
pixels of images. The cache is one more holder of each page: a page that only the cache still refers to goes, least
recently used first, as soon as a sequence needs room.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from llama4_local.cache.page_table import PageAllocators, PagePool, SequencePages


class PageHashes:
    """Names the full pages of one sequence, as it grows.

    Args:
        page_size: Tokens in a page.
        salt: Sequences share pages only with the same salt.
        images: For each image the position of its first token and the SHA-256 of its pixels, in order.
    """

    def __init__(self, page_size: int, salt: str = "", images: Iterable[tuple[int, str]] = ()) -> None:
        self._page_size = page_size
        self._images = tuple(images)
        self._last = hashlib.sha256(salt.encode()).digest()
        self.names: list[bytes] = []

    def cover(self, tokens: Sequence[int], end: int) -> None:
        """Name every full page of `tokens[:end]` that has no name yet."""
        for page in range(len(self.names), end // self._page_size):
            first = page * self._page_size
            last = first + self._page_size
            content = hashlib.sha256(self._last)
            content.update(array("q", tokens[first:last]).tobytes())
            for position, digest in self._images:
                if first <= position < last:
                    content.update(f"{position - first}:{digest};".encode())
            self._last = content.digest()
            self.names.append(self._last)


class _Kept:
    """The named pages of one pool, least recently used first."""

    def __init__(self, pool: PagePool) -> None:
        self.pool = pool
        self.pages: OrderedDict[bytes, int] = OrderedDict()

    def keep(self, name: bytes, page: int) -> None:
        if name not in self.pages:
            self.pool.share([page])
            self.pages[name] = page

    def drop(self, name: bytes) -> None:
        page = self.pages.pop(name, None)
        if page is not None:
            self.pool.release([page])

    def make_room(self, wanted: int) -> bool:
        if self.pool.free < wanted:
            for name in [name for name, page in self.pages.items() if not self.pool.is_shared(page)]:
                self.drop(name)
                if self.pool.free >= wanted:
                    break
        return self.pool.free >= wanted


class PrefixCache:
    """Finds, keeps and gives up named pages of both pools.

    Args:
        pages: The allocators whose pages it holds.
        enabled: Whether anything is kept at all.
    """

    def __init__(self, pages: PageAllocators, *, enabled: bool = True) -> None:
        self._shape = pages.shape
        self._global = _Kept(pages.global_pool)
        self._local = _Kept(pages.local_pool)
        self._enabled = enabled

    @property
    def held(self) -> tuple[int, int]:
        """Pages that it refers to, in the global and the local pool."""
        return len(self._global.pages), len(self._local.pages)

    def attach(self, pages: SequencePages, names: Sequence[bytes]) -> int:
        """Let an empty sequence begin with the longest kept prefix.

        Args:
            pages: The sequence's page table, empty.
            names: Names of the pages that it may take over, from its beginning.

        Returns:
            How many tokens need not be computed.
        """
        count = self._longest(names)
        used, local = names[:count], names[self._chunk_start(count) : count]
        pages.global_pages = [self._global.pages[name] for name in used]
        pages.local_pages = [self._local.pages[name] for name in local] if self._shape.chunk is not None else []
        pages.length = count * self._shape.page_size
        self._global.pool.share(pages.global_pages)
        self._local.pool.share(pages.local_pages)
        self.touch(used)
        return pages.length

    def publish(self, pages: SequencePages, names: Sequence[bytes], known: int) -> int:
        """Keep the full pages of a sequence under their names, from page `known` on.

        Call it after the step that computed them, before the sequence leaves their chunk.

        Returns:
            How many pages are known now.
        """
        if not self._enabled:
            return 0
        full = min(pages.length // self._shape.page_size, len(names))
        # At a chunk edge the finished chunk's local pages are still there until the next step.
        first_local = self._chunk_start((pages.length - 1) // self._shape.page_size) if pages.length else 0
        for page in range(known, full):
            self._global.keep(names[page], pages.global_pages[page])
            if 0 <= page - first_local < len(pages.local_pages):
                self._local.keep(names[page], pages.local_pages[page - first_local])
        return max(known, full)

    def pin(self, names: Sequence[bytes]) -> list[int]:
        """Return the global pages that are kept under these names, up to the first that is not, as one more holder.

        Local pages are not pinned: at a chunk edge none are needed, and beyond it they can be computed again.
        """
        pages: list[int] = []
        for name in names:
            if name not in self._global.pages:
                break
            pages.append(self._global.pages[name])
        self._global.pool.share(pages)
        return pages

    def share(self, pages: Sequence[int]) -> None:
        """Pin pages once more."""
        self._global.pool.share(pages)

    def unpin(self, pages: Sequence[int]) -> None:
        """Give up what `pin` returned."""
        self._global.pool.release(pages)

    def adopt(self, names: Sequence[bytes]) -> list[int]:
        """Take a global page for each name, pinned, whose content the caller then writes.

        Raises:
            Overloaded: There is no room for them.
        """
        self._global.make_room(len(names))
        pages = self._global.pool.take(len(names))
        for name, page in zip(names, pages, strict=True):
            self._global.keep(name, page)
        return pages

    def touch(self, names: Sequence[bytes]) -> None:
        """Mark pages as just used, those deep in the sequence less so than those near its beginning."""
        for name in reversed(names):
            for kept in (self._global, self._local):
                if name in kept.pages:
                    kept.pages.move_to_end(name)

    def make_room(self, global_pages: int, local_pages: int) -> bool:
        """Give up pages until so many are free in each pool; return whether they are."""
        # Both pools are tried, whatever the first one says.
        return self._global.make_room(global_pages) & self._local.make_room(local_pages)

    def forget(self, names: Iterable[bytes]) -> None:
        """Give up pages whose content cannot be trusted."""
        for name in names:
            self._global.drop(name)
            self._local.drop(name)

    def clear(self) -> None:
        """Give everything up."""
        self.forget([*self._global.pages, *self._local.pages])

    def _chunk_start(self, page: int) -> int:
        """The first page of the chunk that a page lies in."""
        if self._shape.chunk is None:
            return 0
        per_chunk = self._shape.chunk // self._shape.page_size
        return page - page % per_chunk

    def _longest(self, names: Sequence[bytes]) -> int:
        """How many pages can be taken over: beyond a chunk edge, local pages must be there as well."""
        count = next((i for i, name in enumerate(names) if name not in self._global.pages), len(names))
        while self._shape.chunk is not None and count > (edge := self._chunk_start(count)):
            missing = [page for page in range(edge, count) if names[page] not in self._local.pages]
            if not missing:
                break
            count = missing[0]
        return count
