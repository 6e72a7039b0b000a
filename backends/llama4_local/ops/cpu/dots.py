"""Sums of products of some rows with some outputs' weights, and how they are divided among threads."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import product
from typing import TYPE_CHECKING

from llama4_local.ops.cpu.ir import F32, I32, I64, PTR, Function, vector
from llama4_local.ops.cpu.numbers import LINE, WIDTH, Array, minimum, total

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from llama4_local.ops.cpu.ir import Value

ROWS = (4, 2, 1)  # that are multiplied at once, each weight read once for them
TILES = {4: 2, 2: 2, 1: 4}  # rows, and outputs beside them: eight sums and less, which fit registers anywhere
_AHEAD = 2048  # bytes by which weights are asked for before they are read


def dot_function(rows: int, outputs: int, *, narrow: bool) -> Function:
    """Return a function that takes rows, weights, their size, and where the sums go, [rows, outputs], fp32.

    A sum is taken in vectors along the inputs, in one order whatever the tile.
    """
    code = Function(_name(rows, outputs), [PTR] * (rows + outputs) + [I64, PTR])
    *arrays, size, out = code.arguments
    xs = [Array(code, base, narrow) for base in arrays[:rows]]
    ws = [Array(code, base, narrow) for base in arrays[rows:]]
    sums = {each: code.slot(vector(F32, WIDTH), 0) for each in product(range(rows), range(outputs))}
    step = LINE // ws[0].size
    whole = (size // step) * step
    with code.loop(0, whole, step) as line:
        for weight in ws:
            weight.prefetch(line + _AHEAD // weight.size)
        for start in range(0, step, WIDTH):
            own = [x.vector(line + start) for x in xs]
            for output, weight in enumerate(ws):
                values = weight.vector(line + start)
                for row, x in enumerate(own):
                    of = sums[row, output]
                    of.set(code.fma(values, x, of.get()))
    rest = {each: code.slot(F32, total(code, of.get())) for each, of in sums.items()}
    with code.loop(whole, size) as place:
        for (row, output), of in rest.items():
            of.set(code.fma(ws[output].number(place), xs[row].number(place), of.get()))
    sums_out = Array(code, out, narrow=False)
    for (row, output), of in rest.items():
        sums_out.put(row * outputs + output, of.get())
    code.do("ret void")
    return code


def dot_functions(*, narrow: bool) -> list[Function]:
    """Return those that `dots` calls."""
    return [dot_function(rows, outputs, narrow=narrow) for rows, outputs in TILES.items()]


def dots(
    code: Function, rows: Sequence[Array], weights: Sequence[Array], size: Value, room: Value
) -> list[list[Value]]:
    """Return the sums of each row with each output's weights, fp32.

    Args:
        code: The caller.
        rows: As many as one of `ROWS`.
        weights: Of as many outputs as `TILES` has for them.
        size: Numbers of each.
        room: Address of eight numbers.
    """
    places = [each.base for each in (*rows, *weights)]
    code.call(_name(len(rows), len(weights)), (*places, size, room))
    sums = Array(code, room, narrow=False)
    return [[sums.number(row * len(weights) + output) for output in range(len(weights))] for row in range(len(rows))]


def by_rows(code: Function, count: Value, write: Callable[[Value, int], None]) -> None:
    """Write code for so many rows at once as `ROWS` has, until all are done; `write` takes the first, and how many."""
    most = ROWS[0]
    whole = (count // most) * most
    with code.loop(0, whole, most) as first:
        write(first, most)
    done = code.slot(I64, whole)
    for rows in ROWS[1:]:
        with code.when(code.bits("and", count, rows).equals(rows)):
            first = done.get()
            write(first, rows)
            done.set(first + rows)


def this_thread(code: Function) -> tuple[Value, Value]:
    """Return the number of the thread that runs the code, and how many do."""
    names = "omp_get_thread_num", "omp_get_num_threads"
    thread, threads = (code.cast("sext", code.call(name, (), I32), I64) for name in names)
    return thread, threads


def share(code: Function, count: Value, unit: int = 1) -> tuple[Value, Value]:
    """Return the first of this thread's part of `count` things, and the one behind its last; parts are whole units."""
    thread, threads = this_thread(code)
    units = (count + (unit - 1)) // unit
    first = (units * thread) // threads * unit
    last = (units * (thread + 1)) // threads * unit
    return first, code.select(last < count, last, count)


@contextmanager
def tiles(code: Function, outputs: tuple[Value, Value], unit: int) -> Generator[Value]:
    """Do what is written within for every `unit` outputs of a part; the last of all begin earlier, to be whole."""
    first, last = outputs
    with code.loop(first, last, unit) as begin:
        yield minimum(code, begin, last - unit)


def wait_for_all(code: Function) -> None:
    """Let all threads arrive before one goes on."""
    code.call("GOMP_barrier", ())


def _name(rows: int, outputs: int) -> str:
    return f"dots_{rows}_{outputs}"
