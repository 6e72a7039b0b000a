# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: what a jitted function takes are its own blocks, not Python values.
"""Blocks of weights times blocks of rows: the loop inside every matrix kernel, for each weight format.

Weights stand on the left, so that a handful of tokens fills the matrix units' narrow side and weights that
are unpacked in registers go to them straight from there. Each element is summed over the inputs in one fixed
order, whatever else is in the block.
"""

import triton
import triton.language as tl

from llama4_local.ops.kernels.arithmetic import dot, halves, nibbles


@triton.jit
def products(
    weights,  # [OUT, IN] in bf16 or e4m3, or [OUT, IN/2] bytes
    scales,  # [IN/GROUP, OUT] bf16 for int4; not read otherwise
    x,  # [tokens, IN] in bf16, for e4m3 weights in e4m3
    rows,  # [ROWS], which outputs
    inside,  # [ROWS], whether there is such an output
    tokens,  # [TOKENS], which rows of x
    live,  # [TOKENS], whether there is such a token
    first,  # first step over the inputs
    last,  # step after the last one
    OUT,
    IN,
    FORMAT: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Return weights[rows]·x[tokens]ᵀ, [ROWS, TOKENS], fp32.

    A step covers DEPTH inputs; for int4 these are whole groups of GROUP. EVEN says that DEPTH divides IN.
    """
    total = tl.zeros((ROWS, TOKENS), tl.float32)
    there = inside[:, None]
    present = live[None, :]
    x_rows = x + tokens[None, :] * IN
    if FORMAT == "int4" and GROUP >= 64:
        QUARTER: tl.constexpr = GROUP // 4
        k = tl.arange(0, QUARTER)
        width = tl.multiple_of(IN // 4, 16)  # groups divide rows; said aloud, since loads are as wide as it is known
        words = weights.to(tl.pointer_type(tl.uint16)) + rows[:, None] * width + k[None, :]
        x_rows += k[:, None]
        for step in range(first, last):
            for part in tl.static_range(DEPTH // GROUP):
                group = step * (DEPTH // GROUP) + part
                x_0 = tl.load(x_rows + group * GROUP, mask=present, other=0.0)
                x_1 = tl.load(x_rows + (group * GROUP + QUARTER), mask=present, other=0.0)
                x_2 = tl.load(x_rows + (group * GROUP + 2 * QUARTER), mask=present, other=0.0)
                x_3 = tl.load(x_rows + (group * GROUP + 3 * QUARTER), mask=present, other=0.0)
                w_0, w_1, w_2, w_3 = nibbles(tl.load(words + group * QUARTER, mask=there, other=0))
                scale = tl.load(scales + group * OUT + rows, mask=inside, other=0.0).to(tl.float32)
                sums = dot(w_1, x_1, dot(w_0, x_0, tl.zeros((ROWS, TOKENS), tl.float32)))
                sums = dot(w_3, x_3, dot(w_2, x_2, sums))
                total += sums * scale[:, None]
    elif FORMAT == "int4":
        HALF: tl.constexpr = GROUP // 2
        k = tl.arange(0, HALF)
        w_rows = weights + rows[:, None] * tl.multiple_of(IN // 2, 16) + k[None, :]
        x_rows += k[:, None]
        for step in range(first, last):
            for part in tl.static_range(DEPTH // GROUP):
                group = step * (DEPTH // GROUP) + part
                x_low = tl.load(x_rows + group * GROUP, mask=present, other=0.0)
                x_high = tl.load(x_rows + (group * GROUP + HALF), mask=present, other=0.0)
                low, high = halves(tl.load(w_rows + group * HALF, mask=there, other=0))
                scale = tl.load(scales + group * OUT + rows, mask=inside, other=0.0).to(tl.float32)
                total += dot(high, x_high, dot(low, x_low, tl.zeros((ROWS, TOKENS), tl.float32))) * scale[:, None]
    else:
        k = tl.arange(0, DEPTH)
        w_rows = weights + rows[:, None] * IN + k[None, :]
        x_rows += k[:, None]
        for step in range(first, last):
            if EVEN:
                x_block = tl.load(x_rows + step * DEPTH, mask=present, other=0.0)
                w_block = tl.load(w_rows + step * DEPTH, mask=there, other=0.0)
            else:
                within = step * DEPTH + k < IN
                x_block = tl.load(x_rows + step * DEPTH, mask=present & within[:, None], other=0.0)
                w_block = tl.load(w_rows + step * DEPTH, mask=there & within[None, :], other=0.0)
            if FORMAT == "fp8":
                # The matrix units keep few bits of e4m3 sums: each step's is added in full fp32 outside them.
                total += dot(w_block, x_block, tl.zeros((ROWS, TOKENS), tl.float32))
            else:
                total = dot(w_block, x_block, total)
    return total


@triton.jit
def share(step_count, split, SPLITS: tl.constexpr):
    """Return the first step of a split's share and the one after its last."""
    each = (step_count + SPLITS - 1) // SPLITS
    first = split * each
    return first, tl.minimum(first + each, step_count)
