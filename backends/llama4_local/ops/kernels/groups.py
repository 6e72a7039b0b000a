# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""From a program's index to its block of tokens and outputs, on the device.

Grids have the size of the worst case, so that a CUDA graph serves any routing; programs beyond the last block return
at once.
"""

import triton
import triton.language as tl

STRIP = tl.constexpr(8)  # token tiles that share weights in the L2 cache at a time


@triton.jit
def strip(program, token_tiles, row_tiles):
    """Return (token tile, row tile), walking strips of STRIP token tiles through all rows.

    Programs that run at the same time thereby share both weights and tokens in the L2 cache.
    """
    each = STRIP * row_tiles
    place = program % each
    first = (program // each) * STRIP
    width = tl.minimum(token_tiles - first, STRIP)
    return first + place % width, place // width


@triton.jit
def locate(offsets, groups, tile, GROUPS: tl.constexpr, TOKENS: tl.constexpr):
    """Return (group, first slot, slot after the group's last) of a token tile; group >= groups beyond the last.

    offsets: [groups + 1], int32: first slot of each group, then the number of slots. GROUPS is the power of
    two above groups.
    """
    g = tl.arange(0, GROUPS)
    mask = g < groups
    starts = tl.load(offsets + g, mask=mask, other=0)
    ends = tl.load(offsets + g + 1, mask=mask, other=0)
    tiles = (ends - starts + TOKENS - 1) // TOKENS
    group = tl.sum((tl.cumsum(tiles, 0) <= tile).to(tl.int32), 0)
    own = g == group
    place = tile - tl.sum(tl.where(g < group, tiles, 0), 0)
    first = tl.sum(tl.where(own, starts, 0), 0) + place * TOKENS
    return group, first, tl.sum(tl.where(own, ends, 0), 0)
