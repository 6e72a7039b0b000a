"""Token masks: the tokens that may come next in a constrained answer, computed while the model runs."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence


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


def apply(logits: Tensor, packed: Mapping[int, bytes]) -> Tensor:
    """Return logits, [rows, vocab], with -inf where the bit of a row is not set; other rows stay as they are.

    Args:
        logits: [rows, vocab].
        packed: By row, a bit for each token, lowest first; missing bytes allow no token.
    """
    rows, vocab = logits.shape
    taken = (vocab + 7) // 8
    everything = b"\xff" * taken
    joined = b"".join(packed.get(row, everything)[:taken].ljust(taken, b"\0") for row in range(rows))
    bits = np.frombuffer(joined, np.uint8).reshape(rows, taken)
    if logits.device.type == "cpu":
        allowed = torch.from_numpy(np.unpackbits(bits, axis=1, bitorder="little"))
    else:
        allowed = unpacked(torch.from_numpy(bits.copy()).to(logits.device))
    return logits.masked_fill(allowed[:, :vocab] == 0, -torch.inf)


def unpacked(bits: Tensor) -> Tensor:
    """Return a byte for each bit, lowest first, on the device of the bits, which are sent eight to a byte.

    Args:
        bits: [rows, bytes], uint8.
    """
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits[:, :, None] >> places) & 1).flatten(1)
