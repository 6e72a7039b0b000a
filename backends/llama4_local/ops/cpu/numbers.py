"""Numbers in kernels for CPUs: arrays of fp32 and bf16, sums, elementary functions. Everything is computed in fp32."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama4_local.ops.cpu.ir import F32, I16, I32, I64, vector, width_of

if TYPE_CHECKING:
    from llama4_local.ops.cpu.ir import Function, Value

WIDTH = 8  # numbers of a vector; LLVM takes several registers, or a part of one, where the processor's differ
LINE = 64  # bytes

_LOWEST, _HIGHEST = -87.0, 88.0  # between them exp and its reciprocal are normal numbers in fp32
# ln 2 in two parts, the first with zeros at its end, so that its multiples are exact (Cody and Waite, 1980).
_LN2 = (0.693359375, math.log(2) - 0.693359375)
_TERMS = 7  # of the series of exp on ±ln 2 / 2: the next one is below 2⁻²⁷


@dataclass(frozen=True, slots=True)
class Array:
    """Numbers in memory.

    Args:
        code: The function that is being written.
        base: Their address.
        narrow: Whether they are bf16; else fp32.
    """

    code: Function
    base: Value
    narrow: bool

    @property
    def size(self) -> int:
        """Bytes of a number."""
        return 2 if self.narrow else 4

    @property
    def per_line(self) -> int:
        """Numbers in a cache line."""
        return LINE // self.size

    def at(self, index: Value | int) -> Array:
        """Return the array from a number on."""
        return Array(self.code, self._address(index), self.narrow)

    def vector(self, index: Value | int) -> Value:
        """Return `WIDTH` numbers from one on, in fp32."""
        return self._read(index, WIDTH)

    def number(self, index: Value | int) -> Value:
        """Return a number, in fp32."""
        return self._read(index, 1)

    def put(self, index: Value | int, value: Value) -> None:
        """Write a number or a vector, rounded to the array's type."""
        stored = _narrowed(self.code, value) if self.narrow else value
        self.code.store(stored, self._address(index), self.size)

    def prefetch(self, index: Value) -> None:
        """Ask for the cache line of a number."""
        address = self._address(index)
        self.code.do(f"call void @llvm.prefetch.p0(ptr {address.name}, i32 0, i32 3, i32 1)")

    def _address(self, index: Value | int) -> Value:
        return self.code.at(self.base, index, I16 if self.narrow else F32)

    def _read(self, index: Value | int, width: int) -> Value:
        inner = I16 if self.narrow else F32
        kind = vector(inner, width) if width > 1 else inner
        read = self.code.load(self._address(index), kind, self.size)
        return _widened(self.code, read) if self.narrow else read


def rounded(code: Function, value: Value, *, narrow: bool) -> Value:
    """Return a value as it is after it was written and read."""
    return _widened(code, _narrowed(code, value)) if narrow else value


def total(code: Function, value: Value) -> Value:
    """Return the sum of a vector's numbers, by halves."""
    while (width := width_of(value.kind)) > 1:
        half = range(width // 2)
        value = code.shuffle(value, half) + code.shuffle(value, [place + width // 2 for place in half])
        if width_of(value.kind) == 1:
            return code.first(value)
    return value


def largest(code: Function, left: Value, right: Value) -> Value:
    """Return the larger of two numbers."""
    return code.select(left > right, left, right)


def square_root(code: Function, value: Value) -> Value:
    """Return the square root of a number."""
    return code.call("llvm.sqrt.f32", (value,), F32)


def exponential(code: Function, value: Value) -> Value:
    """Return e to the power of a number or vector, within 2 units of the last place; NaN stays NaN.

    Ends beyond ±87 are cut off.
    """
    bounded = code.select(value < _LOWEST, code.constant(value.kind, _LOWEST), value)
    bounded = code.select(bounded > _HIGHEST, code.constant(value.kind, _HIGHEST), bounded)
    suffix = "f32" if value.kind == F32 else f"v{width_of(value.kind)}f32"
    power = code.call(f"llvm.floor.{suffix}", (bounded * (1 / math.log(2)) + 0.5,), value.kind)
    rest = bounded
    for part in _LN2:
        rest = code.fma(power, code.constant(value.kind, -part), rest)
    series = code.constant(value.kind, 1 / math.factorial(_TERMS))
    for term in range(_TERMS - 1, -1, -1):
        series = code.fma(series, rest, code.constant(value.kind, 1 / math.factorial(term)))
    return series * _two_to(code, power)


def sigmoid(code: Function, value: Value) -> Value:
    """Return 1 / (1 + exp(-x))."""
    one = code.constant(value.kind, 1)
    return one / (exponential(code, code.constant(value.kind, 0) - value) + 1)


def silu(code: Function, value: Value) -> Value:
    """Return x · sigmoid(x), as x / (1 + exp(-x))."""
    return value / (exponential(code, code.constant(value.kind, 0) - value) + 1)


def _two_to(code: Function, power: Value) -> Value:
    whole = vector(I32, width_of(power.kind)) if power.kind != F32 else I32
    biased = code.cast("fptosi", power, whole) + 127
    return code.cast("bitcast", code.bits("shl", biased, 23), power.kind)


def _widened(code: Function, value: Value) -> Value:
    """Return bf16 as fp32: the upper half of the same bits."""
    width = width_of(value.kind)
    bits, real = (vector(I32, width), vector(F32, width)) if width > 1 else (I32, F32)
    return code.cast("bitcast", code.bits("shl", code.cast("zext", value, bits), 16), real)


def _narrowed(code: Function, value: Value) -> Value:
    """Return fp32 as bf16, rounded to nearest, ties to even; NaN stays NaN."""
    width = width_of(value.kind)
    bits, short = (vector(I32, width), vector(I16, width)) if width > 1 else (I32, I16)
    whole = code.cast("bitcast", value, bits)
    last = code.bits("and", code.bits("lshr", whole, 16), 1)
    upper = code.bits("lshr", whole + last + 0x7FFF, 16)
    unordered = code.compare("ne", "uno", value, value)
    return code.cast("trunc", code.select(unordered, code.constant(bits, 0x7FC0), upper), short)


def minimum(code: Function, left: Value, right: Value | int) -> Value:
    """Return the smaller of two whole numbers."""
    other = code.constant(I64, right)
    return code.select(left < other, left, other)
