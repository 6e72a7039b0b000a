"""Attention of sequences that add one token each, over the pages of their keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.ops.cpu.dots import TILES, by_rows, dots, share, this_thread, wait_for_all
from llama4_local.ops.cpu.ir import F32, I64, PTR, Function, vector
from llama4_local.ops.cpu.kernel import Kernel
from llama4_local.ops.cpu.numbers import WIDTH, Array, exponential, largest, minimum, total

if TYPE_CHECKING:
    from llama4_local.ops.cpu.ir import Value

SPLIT = 256  # keys that one thread attends to at once; the parts of a longer sequence are merged
MOST_GROUP = 16  # query heads of a key head
STRIP = 2 * WIDTH  # numbers of a head that are summed at once
_KEYS = TILES[1]
BESIDE = 2  # numbers beside a part's sums: the largest score, and the sum of weights
_LOWEST = -3.0e38
_NO_WEIGHT = -80.0  # below it a weight is zero, where `exponential` stays at its least


def attention(*, narrow: bool) -> Kernel:
    """Return attention of one query row of each sequence.

    A part is the scores, weights and weighted values of `SPLIT` keys of one sequence and key head; parts are dealt to
    the threads in turns, then each row's are merged in order. Arguments: out and queries [rows, heads, head_dim], the
    cache's keys and values, pages [rows, widest], lengths [rows]; room for parts, fp32 [rows, kv_heads, parts, group,
    head_dim + 2]; rows, kv_heads, group, head_dim, page size, widest, parts of the longest; the factor of scores.
    """
    code = Kernel("attention", narrow=narrow)
    out, queries, keys, values = (code.take_array() for _ in range(4))
    pages, lengths, parts_room = code.take_places(), code.take_places(), code.take_wide()
    rows, kv_heads, group, head_dim, page_size, widest, most_parts = (code.take_count() for _ in range(7))
    factor = code.take_number()
    in_part = group * (head_dim + BESIDE)
    thread, threads = this_thread(code)
    turn = code.slot(I64, 0)
    with code.loop(0, rows) as row:
        length = code.load(code.at(lengths, row, I64), I64, 8)
        with code.loop(0, kv_heads) as head, code.loop(0, length, SPLIT) as first:
            with code.when(turn.get().equals(thread)):
                last = minimum(code, first + SPLIT, length)
                spot = ((row * kv_heads + head) * most_parts + first // SPLIT) * in_part
                own = queries.at((row * kv_heads + head) * group * head_dim)
                bases = (parts_room.at(spot).base, own.base, keys.base, values.base, code.at(pages, row * widest, I64))
                code.call("attend", (*bases, first, last, head, kv_heads, group, head_dim, page_size, factor))
            following = turn.get() + 1
            turn.set(code.select(following < threads, following, code.constant(I64, 0)))
    wait_for_all(code)
    begin, end = share(code, rows * kv_heads)
    with code.loop(begin, end) as item, code.loop(0, group) as query:
        length = code.load(code.at(lengths, item // kv_heads, I64), I64, 8)
        own = parts_room.at(item * most_parts * in_part + query * (head_dim + BESIDE))
        _merge(code, out.at((item * group + query) * head_dim), own, (length + (SPLIT - 1)) // SPLIT, in_part, head_dim)
    code.do("ret void")
    return code


def attend_function(*, narrow: bool) -> Function:
    """Return the function that computes one part."""
    code = Function("attend", [PTR] * 5 + [I64] * 7 + [F32])
    out = Array(code, code.arguments[0], narrow=False)
    queries, keys, values = (Array(code, base, narrow) for base in code.arguments[1:4])
    pages, first, last, head, kv_heads, group, head_dim, page_size, factor = code.arguments[4:]
    spots = code.room(I64, SPLIT + _KEYS)
    scores = Array(code, code.room(F32, MOST_GROUP * (SPLIT + WIDTH)), narrow=False)
    room = code.room(F32, 8)
    count = last - first
    with code.loop(0, count + _KEYS) as place:  # the keys of the last tile are there, if not their own
        token = minimum(code, first + place, last - 1)
        page = code.load(code.at(pages, token // page_size, I64), I64, 8)
        slot = page * page_size + token - (token // page_size) * page_size
        code.store((slot * kv_heads + head) * head_dim, code.at(spots, place, I64), 8)

    def spot(place: Value) -> Value:
        return code.load(code.at(spots, place, I64), I64, 8)

    with code.loop(0, count, _KEYS) as place:
        near = [keys.at(spot(place + key)) for key in range(_KEYS)]

        def score(query: Value, many: int) -> None:
            own = [queries.at((query + each) * head_dim) for each in range(many)]
            for start in range(0, _KEYS, TILES[many]):
                for each, sums in enumerate(dots(code, own, near[start : start + TILES[many]], head_dim, room)):
                    for key, value in enumerate(sums, start):
                        scores.put((query + each) * (SPLIT + WIDTH) + place + key, value * factor)

        by_rows(code, group, score)
    with code.loop(0, group) as query:
        _weigh(code, scores.at(query * (SPLIT + WIDTH)), count, out.at(query * (head_dim + BESIDE) + head_dim))

    def sum_values(query: Value, many: int) -> None:
        with code.loop(0, head_dim, STRIP) as strip:
            sums = [[code.slot(vector(F32, WIDTH), 0) for _ in range(STRIP // WIDTH)] for _ in range(many)]
            with code.loop(0, count) as place:
                value = values.at(spot(place) + strip)
                parts = [value.vector(start) for start in range(0, STRIP, WIDTH)]
                for each, own in enumerate(sums):
                    weight = code.splat(scores.number((query + each) * (SPLIT + WIDTH) + place), WIDTH)
                    for part, of in zip(parts, own, strict=True):
                        of.set(code.fma(weight, part, of.get()))
            for each, own in enumerate(sums):
                for start, of in enumerate(own):
                    out.put((query + each) * (head_dim + BESIDE) + strip + start * WIDTH, of.get())

    by_rows(code, group, sum_values)
    code.do("ret void")
    return code


def _weigh(code: Function, scores: Array, count: Value, beside: Array) -> None:
    """Turn scores into weights relative to the largest one; write that and the weights' sum."""
    with code.loop(count, (count + (WIDTH - 1)) // WIDTH * WIDTH) as place:
        scores.put(place, code.constant(F32, _LOWEST))
    highest = code.slot(F32, _LOWEST)
    with code.loop(0, count) as place:
        highest.set(largest(code, scores.number(place), highest.get()))
    most = code.splat(highest.get(), WIDTH)
    sums = code.slot(vector(F32, WIDTH), 0)
    with code.loop(0, count, WIDTH) as place:
        difference = scores.vector(place) - most
        near = _weight(code, difference)
        scores.put(place, near)
        sums.set(sums.get() + near)
    beside.put(0, highest.get())
    beside.put(1, total(code, sums.get()))


def _merge(code: Kernel, out: Array, parts: Array, count: Value, in_part: Value, head_dim: Value) -> None:
    """Write the weighted mean of parts, in their order."""
    highest = code.slot(F32, _LOWEST)
    with code.loop(0, count) as part:
        highest.set(largest(code, parts.number(part * in_part + head_dim), highest.get()))
    sums = code.slot(F32, 0)

    def weight_of(part: Value) -> Value:
        return _weight(code, parts.number(part * in_part + head_dim) - highest.get())

    with code.loop(0, count) as part:
        sums.set(code.fma(weight_of(part), parts.number(part * in_part + head_dim + 1), sums.get()))
    with code.loop(0, head_dim, WIDTH) as place:
        mixed = code.slot(vector(F32, WIDTH), 0)
        with code.loop(0, count) as part:
            weight = code.splat(weight_of(part), WIDTH)
            mixed.set(code.fma(weight, parts.vector(part * in_part + place), mixed.get()))
        out.put(place, mixed.get() / code.splat(sums.get(), WIDTH))


def _weight(code: Function, difference: Value) -> Value:
    """Return the weight of a score relative to the largest one's; NaN stays NaN."""
    nothing = code.constant(difference.kind, 0)
    return code.select(difference < _NO_WEIGHT, nothing, exponential(code, difference))
