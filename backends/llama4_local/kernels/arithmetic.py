# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: what a jitted function takes are its own blocks, not Python values.
"""Arithmetic that compiled code and Triton's interpreter must do alike.

The interpreter keeps bf16 as bare 16-bit words, which it can neither multiply nor add. `operand` turns such
values into fp32 there, which changes nothing in their value, and leaves them alone in compiled code.
"""

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") in {"1", "true", "on"})


@triton.jit
def operand(x):
    """Return x in a type that can be computed with here: bf16 becomes fp32 in the interpreter."""
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


# Two bytes at a time, each already in a word of 16 bits: the nibbles of both at once. Written as operations on
# single words, the same takes half as many instructions again.
NIBBLES = tl.constexpr("""{
.reg .b32 high, base;
shr.u32 high, $2, 4;
mov.b32 base, 0x43084308;
lop3.b32 $0, $2, 0x000F000F, 0x43004300, 0xEA;
lop3.b32 $1, high, 0x000F000F, 0x43004300, 0xEA;
sub.rn.bf16x2 $0, $0, base;
sub.rn.bf16x2 $1, $1, base;
}""")


@triton.jit
def nibbles(packed):
    """Return the low and the high nibbles of bytes, less 8, ready for `dot`: exact in bf16.

    A nibble q in the mantissa of 128 makes 128 + q; taking 136 off leaves q - 8. The interpreter, which knows no
    assembly, does the same one by one.
    """
    words = packed.to(tl.uint16)
    if INTERPRETED:
        low = operand(((words & 0xF) | 0x4300).to(tl.bfloat16, bitcast=True)) - 136.0
        high = operand(((words >> 4) | 0x4300).to(tl.bfloat16, bitcast=True)) - 136.0
    else:
        low, high = tl.inline_asm_elementwise(
            NIBBLES, "=&r,=&r,r", [words], dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=2
        )
    return low, high


LARGEST = tl.constexpr(448.0)  # of e4m3


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """Return fp32 x in another type, rounded to nearest, ties to even; in e4m3 cut off at ±448.

    The interpreter truncates to bf16 and drops carries in e4m3, so there rounding is done on the bits first.
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
