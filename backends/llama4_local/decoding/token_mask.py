"""Which tokens may come next in answers that keep to a form, found out while the model runs."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class TokenMask(Protocol):
    """Rules tokens out at each place of one answer, as a grammar does."""

    @property
    def problem(self) -> str | None:
        """Why the answer cannot go on, when it cannot."""
        ...

    def allowed(self, written: Sequence[int]) -> bytes:
        """Return a bit for each token, lowest first, after the tokens written so far.

        Asked again for the same tokens, it answers at once. One thread at a time may ask.
        """
        ...


class MaskLookahead:
    """A thread of its own for masks, so that they cost no time of the model's; begun with the first mask."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None

    @contextmanager
    def over(self, masks: Sequence[tuple[TokenMask, Sequence[int]]]) -> Generator[None]:
        """Return a block in which masks are found out beside what it does; its end waits for them.

        Args:
            masks: Each with the tokens written so far, which must not change within the block.
        """
        if not masks:
            yield
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "llama4_local masks")
        under_way = self._thread.submit(_find_out, masks)
        try:
            yield
        finally:
            under_way.result()

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown()


def _find_out(masks: Sequence[tuple[TokenMask, Sequence[int]]]) -> None:
    for mask, written in masks:
        mask.allowed(written)


def apply(logits: Tensor, packed: Mapping[int, bytes]) -> Tensor:
    """Return scores, [rows, vocab], with -inf where the bit of a row is not set; other rows stay as they are.

    Args:
        logits: The scores.
        packed: By row, a bit for each token, lowest first.
    """
    rows, vocab = logits.shape
    taken = (vocab + 7) // 8
    everything = b"\xff" * taken
    joined = b"".join(packed.get(row, everything)[:taken] for row in range(rows))
    bits = np.frombuffer(joined, np.uint8).reshape(rows, taken)
    if logits.device.type == "cpu":
        allowed = torch.from_numpy(np.unpackbits(bits, axis=1, bitorder="little"))
    else:
        allowed = unpacked(torch.from_numpy(bits.copy()).to(logits.device))
    return logits.masked_fill(allowed[:, :vocab] == 0, -torch.inf)


def unpacked(bits: Tensor) -> Tensor:
    """Return a byte for each bit, lowest first, where the bits are; they travel eight to a byte.

    Args:
        bits: [rows, bytes], uint8.
    """
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits[:, :, None] >> places) & 1).flatten(1)
