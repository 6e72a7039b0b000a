# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""A block of weights times a block of activations: the loop inside every matrix kernel, for each weight format.

Weights are the left operand: a handful of tokens fills the matrix units' narrow side, and weights that are unpacked
in registers feed the units from there. Each element is summed over the inputs in one fixed order, independent of the
rest of the block.
"""

import triton
import triton.language as tl

from llama4_local.ops.kernels.arithmetic import dot, halves, nibbles


@triton.jit
def products(
    weights,  # [OUT, IN] in bf16 or e4m3, or [OUT, IN/2] bytes
    scales,  # [IN/group, OUT] bf16 for int4; not read otherwise
    x,  # [tokens, IN] in bf16, for e4m3 weights in e4m3
    rows,  # [rows]: outputs of the block
    row_mask,  # [rows]: outputs that exist
    tokens,  # [tokens]: rows of x
    token_mask,  # [tokens]: tokens that exist
    first,  # first step over the inputs
    last,  # step after the last one
    OUT,
    IN,
    PRODUCT: tl.constexpr,  # `Product`
):
    """Return weights[rows]·x[tokens]ᵀ, [rows, tokens], fp32; e4m3 scales are left to the caller."""
    ROWS: tl.constexpr = PRODUCT.rows  # Triton 3.6 takes a tuple's fields in a shape only as names of their own
    TOKENS: tl.constexpr = PRODUCT.tokens
    DEPTH: tl.constexpr = PRODUCT.depth
    GROUP: tl.constexpr = PRODUCT.group
    total = tl.zeros((ROWS, TOKENS), tl.float32)
    weight_mask = row_mask[:, None]
    x_mask = token_mask[None, :]
    x_rows = x + tokens[None, :] * IN
    if PRODUCT.format == "int4" and GROUP >= 64:
        QUARTER: tl.constexpr = GROUP // 4
        k = tl.arange(0, QUARTER)
        width = tl.multiple_of(IN // 4, 16)  # groups divide rows; the hint widens the loads
        words = weights.to(tl.pointer_type(tl.uint16)) + rows[:, None] * width + k[None, :]
        x_rows += k[:, None]
        for step in range(first, last):
            for part in tl.static_range(DEPTH // GROUP):
                group = step * (DEPTH // GROUP) + part
                x_0 = tl.load(x_rows + group * GROUP, mask=x_mask, other=0.0)
                x_1 = tl.load(x_rows + (group * GROUP + QUARTER), mask=x_mask, other=0.0)
                x_2 = tl.load(x_rows + (group * GROUP + 2 * QUARTER), mask=x_mask, other=0.0)
                x_3 = tl.load(x_rows + (group * GROUP + 3 * QUARTER), mask=x_mask, other=0.0)
                w_0, w_1, w_2, w_3 = nibbles(tl.load(words + group * QUARTER, mask=weight_mask, other=0))
                scale = tl.load(scales + group * OUT + rows, mask=row_mask, other=0.0).to(tl.float32)
                sums = dot(w_1, x_1, dot(w_0, x_0, tl.zeros((ROWS, TOKENS), tl.float32)))
                sums = dot(w_3, x_3, dot(w_2, x_2, sums))
                total += sums * scale[:, None]
    elif PRODUCT.format == "int4":
        HALF: tl.constexpr = GROUP // 2
        k = tl.arange(0, HALF)
        w_rows = weights + rows[:, None] * tl.multiple_of(IN // 2, 16) + k[None, :]
        x_rows += k[:, None]
        for step in range(first, last):
            for part in tl.static_range(DEPTH // GROUP):
                group = step * (DEPTH // GROUP) + part
                x_low = tl.load(x_rows + group * GROUP, mask=x_mask, other=0.0)
                x_high = tl.load(x_rows + (group * GROUP + HALF), mask=x_mask, other=0.0)
                low, high = halves(tl.load(w_rows + group * HALF, mask=weight_mask, other=0))
                scale = tl.load(scales + group * OUT + rows, mask=row_mask, other=0.0).to(tl.float32)
                sums = dot(low, x_low, tl.zeros((ROWS, TOKENS), tl.float32))
                total += dot(high, x_high, sums) * scale[:, None]
    else:
        k = tl.arange(0, DEPTH)
        w_rows = weights + rows[:, None] * IN + k[None, :]
        x_rows += k[:, None]
        for step in range(first, last):
            if PRODUCT.even:
                x_block = tl.load(x_rows + step * DEPTH, mask=x_mask, other=0.0)
                w_block = tl.load(w_rows + step * DEPTH, mask=weight_mask, other=0.0)
            else:
                k_mask = step * DEPTH + k < IN
                x_block = tl.load(x_rows + step * DEPTH, mask=x_mask & k_mask[:, None], other=0.0)
                w_block = tl.load(w_rows + step * DEPTH, mask=weight_mask & k_mask[None, :], other=0.0)
            if PRODUCT.format == "fp8":
                # The matrix units accumulate e4m3 with few bits: each step's sum is added in full fp32 outside them.
                total += dot(w_block, x_block, tl.zeros((ROWS, TOKENS), tl.float32))
            else:
                total = dot(w_block, x_block, total)
    return total


@triton.jit
def scaled_by_row(total, weight_scales, x_scales, rows, row_mask, tokens, token_mask):
    """Return e4m3 products [rows, tokens] times the scales of their weights' and activations' rows."""
    total *= tl.load(weight_scales + rows, mask=row_mask, other=0.0)[:, None]
    return total * tl.load(x_scales + tokens, mask=token_mask, other=0.0)[None, :]


@triton.jit
def expert_data(data, group, EACH: tl.constexpr, OUT, IN, PRODUCT: tl.constexpr):
    """Return the pointer to one expert's numbers in a stack [experts, EACH, OUT, IN]."""
    return data + group.to(tl.int64) * EACH * OUT * (IN // 2 if PRODUCT.format == "int4" else IN)


@triton.jit
def expert_scales(scales, group, EACH: tl.constexpr, OUT, IN, PRODUCT: tl.constexpr):
    """Return the pointer to one expert's scales; bf16 has none."""
    if PRODUCT.format == "int4":
        scales += group.to(tl.int64) * EACH * OUT * (IN // PRODUCT.group)
    else:
        scales += group * EACH * OUT
    return scales


@triton.jit
def share(step_count, split, SPLITS: tl.constexpr):
    """Return the first step of a split and the one after its last."""
    each = (step_count + SPLITS - 1) // SPLITS
    first = split * each
    return first, tl.minimum(first + each, step_count)
