"""The least softmax weights that pass top_k and top_p, without a sort and without a copy to the host.

A weight lies in [0, 1], so that 30 bits of its fp32 encoding order it. The search descends through these bits, in
seven launches for both filters:

1. `tally`: every block counts and sums its weights by their first five bits. Both searches read these tallies.
2. `refine`, `gather`, `settle` for top_k. The tallies of a row give the threshold's first five bits; only weights
   with the same five, the candidates, remain. Where the candidates are more than one program should read, `refine`
   tallies them by their next five bits. `gather` stores the candidates contiguously, in the order of their tokens.
   `settle` bisects the range between the least and the largest candidate, and computes the mass that top_k keeps.
3. The same three for top_p of that mass.

Sums are in fp64, in an order that the row's own weights determine. A weight of 0 is no candidate: it adds no mass,
and where fewer tokens than top_k have any weight, all of them pass.

Two tallies of five bits read the logits at most five times, whatever the vocabulary. A search by bisection alone
would read all of them about 30 times for each filter; a sort moves 202,048 pairs of key and index for each row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llama4_local.ops.kernels.digit_tallies import DIGITS, Ranks, Tallies, refine_kernel, tally_kernel
from llama4_local.ops.kernels.launch import launch
from llama4_local.ops.kernels.threshold_search import gather_kernel, settle_kernel

if TYPE_CHECKING:
    from torch import Tensor

    from llama4_local.ops.filters import Filters
    from llama4_local.ops.kernels.softmax_weights import RowLogits

_WARPS = 8
_FEW = 2  # blocks of weights that one program bisects alone, without a second digit


def thresholds(source: RowLogits, filters: Filters, block: int, padded_blocks: int) -> tuple[Tensor, Tensor]:
    """Return the bits of the least weights that pass top_k, and top_p after it.

    Args:
        source: Logits [rows, vocab] and the largest of each block.
        filters: The rows' filters.
        block: Logits of a program.
        padded_blocks: The number of blocks, rounded up to a power of two.

    Returns:
        Two tensors [rows], int32; the second is undefined in rows whose top_p is 1.
    """
    rows, vocab = source.logits.shape
    blocks = source.tops.shape[1]
    device = source.logits.device
    counts = torch.empty((rows, blocks, DIGITS.value), dtype=torch.int32, device=device)
    coarse = Tallies(counts, torch.empty(counts.shape, dtype=torch.float64, device=device))
    fine = Tallies(torch.empty_like(coarse.counts), torch.empty_like(coarse.masses))
    ranks = Ranks(filters.top_k, filters.top_p)
    sums = torch.empty((rows, blocks), dtype=torch.float64, device=device)
    p_mass = torch.empty(rows, dtype=torch.float64, device=device)
    gathered = torch.empty((rows, vocab), dtype=torch.float32, device=device)
    grid = (rows, blocks)
    launch(tally_kernel, grid, warps=_WARPS)(
        source, ranks, coarse, sums, vocab, blocks, BLOCK=block, BLOCKS=padded_blocks
    )

    def search(*, mass: bool) -> Tensor:
        threshold = torch.empty(rows, dtype=torch.int32, device=device)
        few = _FEW * block
        launch(refine_kernel, grid, warps=_WARPS)(
            source, ranks.top_k, p_mass, coarse, fine, vocab, blocks,
            MASS=mass, FEW=few, BLOCK=block, BLOCKS=padded_blocks,
        )  # fmt: skip
        launch(gather_kernel, grid, warps=_WARPS)(
            source, ranks.top_k, p_mass, coarse, fine, gathered, vocab, blocks,
            MASS=mass, FEW=few, BLOCK=block, BLOCKS=padded_blocks,
        )  # fmt: skip
        launch(settle_kernel, (rows,), warps=_WARPS)(
            gathered, coarse, fine, sums, ranks, p_mass, threshold, vocab, blocks,
            MASS=mass, FEW=few, SPAN=block // 2, BLOCKS=padded_blocks,
        )  # fmt: skip
        return threshold

    return search(mass=False), search(mass=True)
