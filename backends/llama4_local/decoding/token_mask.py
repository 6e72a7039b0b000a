"""Token masks: the tokens that may come next in a constrained answer, computed while the model runs."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence


class TokenMask(Protocol):
    """Rules tokens out at each position of one answer, as a grammar does."""

    @property
    def problem(self) -> str | None:
        """The reason why the answer cannot go on; None while it can."""
        ...

    def allowed(self, written: Sequence[int]) -> bytes:
        """Return a bit for each token, lowest first, after the tokens written so far.

        A second call for the same tokens returns at once. One thread at a time may call it.
        """
        ...


class MaskLookahead:
    """Computes masks in a thread beside the model; the thread starts with the first mask."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None

    @contextmanager
    def over(self, masks: Sequence[tuple[TokenMask, Sequence[int]]]) -> Generator[None]:
        """Return a block beside which masks are computed; its end waits for them.

        Args:
            masks: Each with the tokens written so far, which must not change within the block.
        """
        if not masks:
            yield
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "llama4_local masks")
        pending = self._thread.submit(_compute, masks)
        try:
            yield
        finally:
            pending.result()

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown()


def _compute(masks: Sequence[tuple[TokenMask, Sequence[int]]]) -> None:
    for mask, written in masks:
        with contextlib.suppress(Exception):  # raised again where the mask is applied, in its own row
            mask.allowed(written)


def words(packed: Sequence[bytes], vocab: int) -> np.ndarray:
    """Return the bits of some rows as `Ops.adjust` takes them, [rows, ⌈vocab / 32⌉], int32.

    Args:
        packed: Of each row a bit for each token, lowest first; missing bytes allow no token.
        vocab: Tokens.
    """
    taken = 4 * -(-vocab // 32)
    joined = b"".join(bits[:taken].ljust(taken, b"\0") for bits in packed)
    return np.frombuffer(bytearray(joined), "<i4").reshape(len(packed), -1)
