# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""A block of weights times a block of activations: the loop inside every matrix kernel, for each weight format.

Weights are the left operand: a handful of tokens fills the matrix units' narrow side, and weights that are unpacked
in registers feed the units from there. Each element is summed over the inputs in one fixed order, independent of the
rest of the block.
"""

import triton
import triton.language as tl

from llama4_local.ops.kernels.arithmetic import OFFSET, dot, halves, nibbles, rounded
from llama4_local.ops.kernels.overlap import release_next_kernel

LEAST_UNIT = tl.constexpr(1e-30)  # in place of a scale of 0: its group adds nothing that fp32 sums of others keep


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
        # Sums are kept in units of the current group's scale, so that the matrix units add to them where they are.
        end = tl.maximum(last * (DEPTH // GROUP) - 1, 0)  # the last group; an empty share may begin behind it
        ahead = tl.load(scales + tl.minimum(first * (DEPTH // GROUP), end) * OUT + rows, mask=row_mask, other=0.0)
        unit = tl.full((ROWS,), 1.0, tl.float32)
        for step in range(first, last):
            for part in tl.static_range(DEPTH // GROUP):
                group = step * (DEPTH // GROUP) + part
                scale = ahead.to(tl.float32)
                scale = tl.where(scale == 0, LEAST_UNIT, scale)
                ahead = tl.load(scales + tl.minimum(group + 1, end) * OUT + rows, mask=row_mask, other=0.0)
                x_0 = tl.load(x_rows + group * GROUP, mask=x_mask, other=0.0)
                x_1 = tl.load(x_rows + (group * GROUP + QUARTER), mask=x_mask, other=0.0)
                x_2 = tl.load(x_rows + (group * GROUP + 2 * QUARTER), mask=x_mask, other=0.0)
                x_3 = tl.load(x_rows + (group * GROUP + 3 * QUARTER), mask=x_mask, other=0.0)
                w_0, w_1, w_2, w_3 = nibbles(tl.load(words + group * QUARTER, mask=weight_mask, other=0))
                total *= (unit / scale)[:, None]
                total = dot(w_3, x_3, dot(w_2, x_2, dot(w_1, x_1, dot(w_0, x_0, total))))
                unit = scale
        total *= unit[:, None]
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
def paired_products(
    weights,  # [OUT, IN/2] bytes
    scales,  # [IN/group, OUT] bf16
    x,  # [tokens, IN], bf16
    upper,  # [rows/2]: outputs of the block's first half
    lower,  # [rows/2]: outputs of its second half
    upper_mask,  # [rows/2]: outputs that exist
    lower_mask,  # as `upper_mask`
    tokens,  # [tokens]: rows of x
    token_mask,  # [tokens]: tokens that exist
    first,  # first step over the inputs
    last,  # step after the last one
    OUT,
    IN,
    PRODUCT: tl.constexpr,  # `Product` with `paired`
):
    """Return int4 weights[upper]·x[tokens]ᵀ and weights[lower]·x[tokens]ᵀ, each [rows/2, tokens], fp32.

    For few tokens. Each warp holds 16 rows of either half, so that it reads its scales without an exchange between
    warps, two groups before their use. With 8 tokens nothing is subtracted from a weight: 136 times the sum of the
    activations, a product that both halves share, is where the sums of a group begin. With 16 tokens the matrix units
    have no time to spare for that.
    """
    RAISED: tl.constexpr = PRODUCT.tokens <= 8
    ROWS: tl.constexpr = PRODUCT.rows // 2
    TOKENS: tl.constexpr = PRODUCT.tokens
    GROUP: tl.constexpr = PRODUCT.group
    QUARTER: tl.constexpr = GROUP // 4
    PARTS: tl.constexpr = PRODUCT.depth // GROUP
    k = tl.arange(0, QUARTER)
    width = tl.multiple_of(IN // 4, 16)  # groups divide rows; the hint widens the loads
    words = weights.to(tl.pointer_type(tl.uint16))
    upper_words = words + upper[:, None] * width + k[None, :]
    lower_words = words + lower[:, None] * width + k[None, :]
    x_rows = x + tokens[None, :] * IN + k[:, None]
    x_mask = token_mask[None, :]
    offset = tl.full((ROWS, QUARTER), -OFFSET, tl.bfloat16)
    end = tl.maximum(last * PARTS - 1, 0)  # the last group; an empty share of the inputs may begin behind it
    begin = tl.minimum(first * PARTS, end)
    upper_next = tl.load(scales + begin * OUT + upper, mask=upper_mask, other=0.0)
    lower_next = tl.load(scales + begin * OUT + lower, mask=lower_mask, other=0.0)
    begin = tl.minimum(begin + 1, end)
    upper_after = tl.load(scales + begin * OUT + upper, mask=upper_mask, other=0.0)
    lower_after = tl.load(scales + begin * OUT + lower, mask=lower_mask, other=0.0)
    upper_total = tl.zeros((ROWS, TOKENS), tl.float32)
    lower_total = tl.zeros((ROWS, TOKENS), tl.float32)
    for step in range(first, last):
        for part in tl.static_range(PARTS):
            group = step * PARTS + part
            upper_scale = upper_next
            lower_scale = lower_next
            upper_next = upper_after
            lower_next = lower_after
            ahead = scales + tl.minimum(group + 2, end) * OUT
            upper_after = tl.load(ahead + upper, mask=upper_mask, other=0.0)
            lower_after = tl.load(ahead + lower, mask=lower_mask, other=0.0)
            x_0 = tl.load(x_rows + group * GROUP, mask=x_mask, other=0.0)
            x_1 = tl.load(x_rows + (group * GROUP + QUARTER), mask=x_mask, other=0.0)
            x_2 = tl.load(x_rows + (group * GROUP + 2 * QUARTER), mask=x_mask, other=0.0)
            x_3 = tl.load(x_rows + (group * GROUP + 3 * QUARTER), mask=x_mask, other=0.0)
            base = tl.zeros((ROWS, TOKENS), tl.float32)
            if RAISED:
                base = dot(offset, x_3, dot(offset, x_2, dot(offset, x_1, dot(offset, x_0, base))))
            word = tl.load(upper_words + group * QUARTER, mask=upper_mask[:, None], other=0)
            w_0, w_1, w_2, w_3 = nibbles(word, RAISED)
            sums = dot(w_3, x_3, dot(w_2, x_2, dot(w_1, x_1, dot(w_0, x_0, base))))
            upper_total += sums * upper_scale.to(tl.float32)[:, None]
            word = tl.load(lower_words + group * QUARTER, mask=lower_mask[:, None], other=0)
            w_0, w_1, w_2, w_3 = nibbles(word, RAISED)
            sums = dot(w_3, x_3, dot(w_2, x_2, dot(w_1, x_1, dot(w_0, x_0, base))))
            lower_total += sums * lower_scale.to(tl.float32)[:, None]
    return upper_total, lower_total


@triton.jit
def store_products(
    weights,  # as in `products`
    scales,  # of int4 groups, or fp32 of e4m3 rows
    x,  # `Scaled`: [tokens, IN]; scales [tokens], fp32, for e4m3
    row,  # first output of the block
    tokens,
    token_mask,
    first,
    last,
    OUT,
    IN,
    targets,  # [tokens], pointers: rows of the result
    PRODUCT: tl.constexpr,
):
    """Write weights[rows]·x[tokens]ᵀ to the rows of the result, and let the next kernel's programs start."""
    if PRODUCT.paired:
        HALF: tl.constexpr = PRODUCT.rows // 2
        upper = row + tl.arange(0, HALF)
        lower = upper + HALF
        total, other = paired_products(
            weights, scales, x.data, upper, lower, upper < OUT, lower < OUT, tokens, token_mask, first, last, OUT, IN,
            PRODUCT,
        )  # fmt: skip
        release_next_kernel()
        mask = (lower < OUT)[:, None] & token_mask[None, :]
        tl.store(targets[None, :] + lower[:, None], rounded(other, targets.dtype.element_ty), mask=mask)
        rows = upper
    else:
        ROWS: tl.constexpr = PRODUCT.rows
        rows = row + tl.arange(0, ROWS)
        total = products(weights, scales, x.data, rows, rows < OUT, tokens, token_mask, first, last, OUT, IN, PRODUCT)
        if PRODUCT.format == "fp8":
            total = scaled_by_row(total, scales, x.scales, rows, rows < OUT, tokens, token_mask)
        release_next_kernel()
    mask = (rows < OUT)[:, None] & token_mask[None, :]
    tl.store(targets[None, :] + rows[:, None], rounded(total, targets.dtype.element_ty), mask=mask)


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
