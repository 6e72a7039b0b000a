"""RMS norm, and what becomes of the joined projections: rotation, norm and scale of heads, keys and values cached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.ops.cpu.dots import share
from llama4_local.ops.cpu.ir import F32, I64, vector
from llama4_local.ops.cpu.kernel import Kernel
from llama4_local.ops.cpu.numbers import WIDTH, Array, rounded, square_root, total

if TYPE_CHECKING:
    from llama4_local.ops.cpu.ir import Slot, Value

MOST_HEAD_DIM = 512  # numbers of a head, which lies on the stack


def norm(*, narrow: bool, adds: bool) -> Kernel:
    """Return out = x / rms(x) · weight, rounded before the product, for rows of a multiple of `WIDTH` numbers.

    Args:
        narrow: Whether arrays are bf16.
        adds: Whether x is the sum of two arrays, which is also written.
    """
    code = Kernel("add_norm" if adds else "norm", narrow=narrow)
    out, x, weight = (code.take_array() for _ in range(3))
    added, summed = (code.take_array(), code.take_array()) if adds else (None, None)
    rows, size, eps = code.take_count(), code.take_count(), code.take_number()
    first, last = share(code, rows)
    with code.loop(first, last) as row:
        begin = row * size
        squares = code.slot(vector(F32, WIDTH), 0)
        with code.loop(begin, begin + size, WIDTH) as place:
            values = x.vector(place)
            if added is not None and summed is not None:
                values = rounded(code, values + added.vector(place), narrow=narrow)
                summed.put(place, values)
            squares.set(code.fma(values, values, squares.get()))
        factor = code.splat(_over_rms(code, squares, size, eps), WIDTH)
        with code.loop(0, size, WIDTH) as place:
            values = (summed or x).vector(begin + place)
            out.put(begin + place, rounded(code, values * factor, narrow=narrow) * weight.vector(place))
    code.do("ret void")
    return code


def epilogue(*, narrow: bool) -> Kernel:
    """Write queries [rows, heads, head_dim], and keys and values to their slots in the cache; see `Ops.qkv_epilogue`.

    Arguments: queries, the cache's keys and values, the joined projections; cosines and sines, and the temperatures of
    queries, or null; slots; rows, heads, kv_heads, head_dim; whether there is a norm, and its epsilon.
    """
    code = Kernel("epilogue", narrow=narrow)
    queries, keys, values, qkv = (code.take_array() for _ in range(4))
    (rotation, turns), (scales, scaled), slots = code.take_optional(), code.take_optional(), code.take_places()
    rows, heads, kv_heads, head_dim, norms = (code.take_count() for _ in range(5))
    eps = code.take_number()
    room = Array(code, code.room(F32, MOST_HEAD_DIM), narrow=False)
    in_row = heads + kv_heads * 2
    first, last = share(code, rows * in_row)
    with code.loop(first, last) as item:
        row, head = item // in_row, item - (item // in_row) * in_row
        source = qkv.at(item * head_dim)
        slot = code.load(code.at(slots, row, I64), I64, 8)
        cached = (slot * kv_heads + head - heads) * head_dim
        with code.when(head < heads + kv_heads):
            squares = code.slot(vector(F32, WIDTH), 0)
            with code.loop(0, head_dim, WIDTH) as place:
                room.put(place, source.vector(place))
                with code.when(turns):
                    room.put(place, _turned(code, source.vector(place), rotation.vector(row * head_dim + place)))
                turned = room.vector(place)
                squares.set(code.fma(turned, turned, squares.get()))
            factor, scale = code.slot(F32, 1), code.slot(F32, 1)
            with code.when(norms > 0):
                factor.set(_over_rms(code, squares, head_dim, eps))
            is_query = head < heads
            with code.when(code.bits("and", scaled, is_query)):
                scale.set(scales.number(row))
            factors, last_scale = code.splat(factor.get(), WIDTH), code.splat(scale.get(), WIDTH)
            target = Array(
                code,
                code.select(is_query, queries.at(row * heads * head_dim + head * head_dim).base, keys.at(cached).base),
                narrow,
            )
            with code.loop(0, head_dim, WIDTH) as place:
                target.put(place, room.vector(place) * factors * last_scale)
        with code.when(head > heads + kv_heads - 1):
            target = values.at(cached - kv_heads * head_dim)
            with code.loop(0, head_dim, WIDTH) as place:
                target.put(place, source.vector(place))
    code.do("ret void")
    return code


def _over_rms(code: Kernel, squares: Slot, size: Value, eps: Value) -> Value:
    """Return 1 / sqrt(mean + eps) of a vector of sums of squares of `size` numbers."""
    mean = total(code, squares.get()) / code.cast("sitofp", size, F32)
    return code.constant(F32, 1) / square_root(code, mean + eps)


def _turned(code: Kernel, pairs: Value, turns: Value) -> Value:
    """Return pairs times cosine and sine of each, as complex numbers."""
    cosines = code.shuffle(turns, [place // 2 * 2 for place in range(WIDTH)])
    sines = code.shuffle(turns, [place // 2 * 2 + 1 for place in range(WIDTH)])
    signs = code.constants(pairs.kind, [(-1.0, 1.0)[place % 2] for place in range(WIDTH)])
    swapped = code.shuffle(pairs, [place ^ 1 for place in range(WIDTH)])
    return code.fma(swapped * signs, sines, pairs * cosines)
