"""The second level of the prefix cache: global layers' pages that the device gave up, kept in host memory.

At a multiple of the chunk no chunk-local layer attends to earlier tokens, so the global layers are enough to go on from
there. Copies run in the device's stream, between the steps that use the pages; the host does not wait for them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import torch

from llama4_local.weights.e4m3 import words
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llama4_local.cache.kv_cache import KvCache


class HostPages:
    """Pages by their hash, in memory that is allocated once; the least recently used make room for others.

    Args:
        cache: The tensors on the device.
        limit: Most bytes.

    Raises:
        InvalidRequest: The limit is below the bytes of a page.
    """

    def __init__(self, cache: KvCache, limit: int) -> None:
        self._device = [words(tensor) for tensor in cache.storage["global"]]
        layers, _, *row = self._device[0].shape
        page = sum(tensor[:, 0].nbytes for tensor in self._device)
        slots = limit // page if page else 0
        if not slots:
            raise InvalidRequest(f"host_cache= of {limit:,} bytes holds no page of {page:,}; raise it or leave it out.")
        pinned = self._device[0].device.type == "cuda"
        self._host = [
            torch.empty((slots, layers, *row), dtype=tensor.dtype, pin_memory=pinned) for tensor in self._device
        ]
        self._free = list(range(slots))
        self._slots: OrderedDict[bytes, int] = OrderedDict()

    @property
    def bytes(self) -> int:
        """Bytes that it takes."""
        return sum(tensor.nbytes for tensor in self._host)

    def __contains__(self, page_hash: bytes) -> bool:
        return page_hash in self._slots

    def __len__(self) -> int:
        return len(self._slots)

    def store(self, page_hash: bytes, page: int) -> None:
        """Keep a copy of a page, whose content the device may overwrite from its next step on."""
        if page_hash not in self._slots:
            slot = self._free.pop() if self._free else self._slots.popitem(last=False)[1]
            for host, device in zip(self._host, self._device, strict=True):
                host[slot].copy_(device[:, page], non_blocking=True)
            self._slots[page_hash] = slot
        self._slots.move_to_end(page_hash)

    def load(self, hashes: Sequence[bytes], pages: Sequence[int]) -> None:
        """Copy kept pages into pages of the device, before its next step."""
        for page_hash, page in zip(hashes, pages, strict=True):
            slot = self._slots[page_hash]
            for host, device in zip(self._host, self._device, strict=True):
                device[:, page].copy_(host[slot], non_blocking=True)

    def touch(self, hashes: Iterable[bytes]) -> None:
        """Mark those pages that are kept as just used."""
        for page_hash in hashes:
            if page_hash in self._slots:
                self._slots.move_to_end(page_hash)

    def forget(self, page_hash: bytes) -> None:
        """Drop a page."""
        slot = self._slots.pop(page_hash, None)
        if slot is not None:
            self._free.append(slot)
