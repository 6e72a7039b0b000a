# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""Arithmetic with the same results in compiled code and in Triton's interpreter.

The interpreter stores bf16 as bare 16-bit words, which it can neither multiply nor add. `operand` converts such
values to fp32 there, which is exact, and returns them unchanged in compiled code.
"""

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") in {"1", "true", "on"})


@triton.jit
def operand(x):
    """Return x in a type with arithmetic: bf16 becomes fp32 in the interpreter."""
    if INTERPRETED:
        x = x.to(tl.float32)
    return x


@triton.jit
def dot(a, b, total):
    """Return total + a·b on the matrix units; total is fp32."""
    if INTERPRETED:
        total = tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="ieee")
    else:
        total = tl.dot(a, b, total)
    return total


# Two 16-bit words at a time: each of their four nibbles becomes mantissa bits of a bf16 with the exponent of 128, in
# pairs. The same as operations on single words takes twice as many instructions.
RAISED_NIBBLES = tl.constexpr("""{
.reg .b32 second, third, fourth, base;
shr.u32 second, $4, 4;
shr.u32 third, $4, 8;
shr.u32 fourth, $4, 12;
mov.b32 base, 0x43084308;
lop3.b32 $0, $4, 0x000F000F, 0x43004300, 0xEA;
lop3.b32 $1, second, 0x000F000F, 0x43004300, 0xEA;
lop3.b32 $2, third, 0x000F000F, 0x43004300, 0xEA;
lop3.b32 $3, fourth, 0x000F000F, 0x43004300, 0xEA;
}""")
NIBBLES = tl.constexpr(
    RAISED_NIBBLES.value.removesuffix("}")
    + """sub.rn.bf16x2 $0, $0, base;
sub.rn.bf16x2 $1, $1, base;
sub.rn.bf16x2 $2, $2, base;
sub.rn.bf16x2 $3, $3, base;
}"""
)

OFFSET = tl.constexpr(136.0)  # 128 for the bits that make a nibble a number, 8 for the middle of its range


@triton.jit
def nibbles(words, RAISED: tl.constexpr = False):
    """Return the four nibbles of 16-bit words, lowest first, minus 8, ready for `dot`: exact in bf16.

    A nibble q in the mantissa of 128 makes 128 + q; subtracting 136 leaves q - 8. With RAISED it is not subtracted: the
    caller takes 136 times the sum of the other operand off the product. The interpreter has no inline assembly and
    unpacks one nibble at a time.
    """
    if INTERPRETED:
        first, second = less_8(words & 0xF), less_8((words >> 4) & 0xF)
        third, fourth = less_8((words >> 8) & 0xF), less_8(words >> 12)
        if RAISED:
            first, second, third, fourth = first + OFFSET, second + OFFSET, third + OFFSET, fourth + OFFSET
    else:
        first, second, third, fourth = tl.inline_asm_elementwise(
            RAISED_NIBBLES if RAISED else NIBBLES,
            "=&r,=&r,=&r,=&r,r",
            [words],
            dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16),
            is_pure=True,
            pack=2,
        )
    return first, second, third, fourth


@triton.jit
def halves(packed):
    """Return the low and the high nibbles of bytes, minus 8, as `nibbles` does."""
    return less_8(packed & 0xF), less_8(packed >> 4)


@triton.jit
def less_8(nibble):
    """Return integers from 0 to 15 minus 8, ready for `dot`."""
    return operand((nibble.to(tl.uint16) | 0x4300).to(tl.bfloat16, bitcast=True)) - OFFSET


LARGEST = tl.constexpr(448.0)  # of e4m3


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """Return fp32 x in another type, rounded to nearest, ties to even; in e4m3 clamped to ±448.

    The interpreter truncates to bf16 and drops carries in e4m3, so that this function rounds the bits first there.
    """
    if dtype == tl.float8e4nv:
        x = tl.minimum(tl.maximum(x, -LARGEST), LARGEST)
        if INTERPRETED:
            bits = x.to(tl.uint32, bitcast=True)
            normal = (bits + 0x7FFFF + ((bits >> 20) & 1)) & 0xFFF00000
            tiny = (x + 24576.0) - 24576.0  # multiples of 2^-9, the step below 2^-6
            x = tl.where(tl.abs(x) < 0.015625, tiny, normal.to(tl.float32, bitcast=True))
    elif INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        x = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).to(tl.float32, bitcast=True)
    return x.to(dtype)


LARGEST_FP16 = tl.constexpr(65504.0)
RAISED_WEIGHTS = tl.constexpr(15.0)  # fp16 then holds softmax weights down to 2^-39 of the largest, which is 2^15


@triton.jit
def query_for(query, cached: tl.constexpr):
    """Return bf16 queries in the type in which they meet cached keys of a type.

    E4m3 becomes fp16 in one instruction for two numbers, and bf16 in five of which two are slow. Queries lose nothing
    in fp16 from 2^-14 on; beyond ±65504 they become ±65504.
    """
    if cached == tl.float8e4nv:
        query = tl.minimum(tl.maximum(query.to(tl.float32), -LARGEST_FP16), LARGEST_FP16).to(tl.float16)
    return query


@triton.jit
def softmax_base(top, dtype: tl.constexpr):
    """Return the exponent that is subtracted from scores whose largest is `top`, so that weights fit a type."""
    if dtype == tl.float16:
        top = top - RAISED_WEIGHTS
    return top
