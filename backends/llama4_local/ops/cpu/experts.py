"""The feed-forwards: SwiGLU of every row, and the mixture of experts, in one kernel each."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from llama4_local.ops.cpu.dots import TILES, by_rows, dots, share, tiles, wait_for_all
from llama4_local.ops.cpu.ir import F32, I64, PTR, Function, Value
from llama4_local.ops.cpu.kernel import Kernel
from llama4_local.ops.cpu.linear import LEAST_OUTPUTS, multiply, place_of
from llama4_local.ops.cpu.numbers import WIDTH, Array, rounded, sigmoid, silu

if TYPE_CHECKING:
    from collections.abc import Generator

MOST_ROWS = 64  # of a mixture's step; their places lie on the stack
_PAIRS = 2  # of gate and up that make a tile


def mlp(*, narrow: bool) -> Kernel:
    """Return out = down(silu(gate(x)) · up(x)) of x [rows, hidden], `between` [rows, inner] in between."""
    code = Kernel("mlp", narrow=narrow)
    out, x, gate_up, down, between = (code.take_array() for _ in range(5))
    rows, hidden, inner = (code.take_count() for _ in range(3))
    _gate(code, (between, x, gate_up), code.null(), rows, hidden, inner)
    wait_for_all(code)
    part = share(code, hidden, LEAST_OUTPUTS)
    multiply(code, (out, between, down), code.null(), rows, part, (hidden, inner))
    code.do("ret void")
    return code


def mixture(*, narrow: bool) -> Kernel:
    """Return the mixture of experts of at most `MOST_ROWS` rows.

    Each row finds its expert; then all threads work on their outputs of one expert after another, the shared one last.
    Arguments: out and x [rows, hidden], the scores [rows, experts], stacks gate_up [experts, 2·inner, hidden] and down
    [experts, hidden, inner], the same of the shared expert, and room for what lies in between: scaled rows and routed
    results [rows, hidden], and [rows, inner] of both kinds of experts.
    """
    code = Kernel("mixture", narrow=narrow)
    out, x, scores, gate_up, down, shared_gate_up, shared_down = (code.take_array() for _ in range(7))
    scaled, routed, between, shared_between = (code.take_array() for _ in range(4))
    rows, hidden, inner, shared_inner, experts = (code.take_count() for _ in range(5))
    chosen, own = code.room(I64, MOST_ROWS), code.room(I64, MOST_ROWS)
    _choose(code, rows, experts, scores, chosen)
    _scale(code, rows, hidden, experts, (x, scores, scaled), chosen)
    wait_for_all(code)
    with _each_expert(code, rows, experts, chosen, own) as (expert, count):
        _gate(code, (between, scaled, gate_up.at(expert * inner * hidden * 2)), own, count, hidden, inner)
    _gate(code, (shared_between, x, shared_gate_up), code.null(), rows, hidden, shared_inner)
    wait_for_all(code)
    part = share(code, hidden, LEAST_OUTPUTS)
    with _each_expert(code, rows, experts, chosen, own) as (expert, count):
        multiply(code, (routed, between, down.at(expert * hidden * inner)), own, count, part, (hidden, inner))
    arrays = out, shared_between, shared_down
    multiply(code, arrays, code.null(), rows, part, (hidden, shared_inner), added=routed)
    code.do("ret void")
    return code


@contextmanager
def _each_expert(
    code: Kernel, rows: Value, experts: Value, chosen: Value, own: Value
) -> Generator[tuple[Value, Value]]:
    """Do what is written within for each expert that rows have chosen: the expert, and how many are in `own`."""
    with code.loop(0, experts) as expert:
        count = _rows_of(code, rows, chosen, expert, own)
        with code.when(count > 0):
            yield expert, count


def _choose(code: Kernel, rows: Value, experts: Value, scores: Array, chosen: Value) -> None:
    """Let every thread find each row's expert: the first of the highest score."""
    with code.loop(0, rows) as row:
        best, highest = code.slot(I64, 0), code.slot(F32, scores.number(row * experts))
        with code.loop(1, experts) as expert:
            score = scores.number(row * experts + expert)
            better = score > highest.get()
            best.set(code.select(better, expert, best.get()))
            highest.set(code.select(better, score, highest.get()))
        code.store(best.get(), code.at(chosen, row, I64), 8)


def _scale(
    code: Kernel, rows: Value, hidden: Value, experts: Value, arrays: tuple[Array, Array, Array], chosen: Value
) -> None:
    """Scale each row by the sigmoid of its expert's score; each thread has some of the rows."""
    x, scores, scaled = arrays
    first, last = share(code, rows)
    with code.loop(first, last) as row:
        expert = code.load(code.at(chosen, row, I64), I64, 8)
        gate = rounded(code, sigmoid(code, scores.number(row * experts + expert)), narrow=code.narrow)
        gates = code.splat(gate, WIDTH)
        whole = (hidden // WIDTH) * WIDTH
        with code.loop(0, whole, WIDTH) as place:
            scaled.put(row * hidden + place, x.vector(row * hidden + place) * gates)
        with code.loop(whole, hidden) as place:
            scaled.put(row * hidden + place, x.number(row * hidden + place) * gate)


def _rows_of(code: Kernel, rows: Value, chosen: Value, expert: Value, own: Value) -> Value:
    """Return how many rows have an expert, and write them to `own`, in order."""
    count = code.slot(I64, 0)
    with code.loop(0, rows) as row, code.when(code.load(code.at(chosen, row, I64), I64, 8).equals(expert)):
        code.store(row, code.at(own, count.get(), I64), 8)
        count.set(count.get() + 1)
    return count.get()


def _gate(
    code: Kernel, arrays: tuple[Array, Array, Array], places: Value, rows: Value, hidden: Value, inner: Value
) -> None:
    bases = (each.base for each in arrays)
    code.call("gate", (*bases, places, rows, *share(code, inner, _PAIRS), hidden, inner))


def gated_function(*, narrow: bool) -> Function:
    """Return the function silu(gate) · up of two numbers."""
    code = Function("gated", [F32, F32], F32)
    gate, up = (rounded(code, each, narrow=narrow) for each in code.arguments)
    activated = rounded(code, silu(code, gate), narrow=narrow)
    code.do(f"ret {F32} {(activated * up).name}")
    return code


def gate_function(*, narrow: bool) -> Function:
    """Return a function that writes silu(gate(x)) · up(x) of rows at some places, for some of the inner numbers."""
    code = Function("gate", [PTR] * 4 + [I64] * 5)
    between, x, gate_up = (Array(code, base, narrow) for base in code.arguments[:3])
    places, rows, first, last, hidden, inner = code.arguments[3:]
    room = code.room(F32, 8)

    with tiles(code, (first, last), _PAIRS) as begin:
        pairs = [
            [gate_up.at(line * hidden) for line in (begin + output, inner + begin + output)] for output in range(_PAIRS)
        ]

        def write(row: Value, many: int) -> None:
            taken = [place_of(code, places, row + each) for each in range(many)]
            xs = [x.at(place * hidden) for place in taken]
            at_once = TILES[many] // 2
            for start in range(0, _PAIRS, at_once):
                weights = [matrix for pair in pairs[start : start + at_once] for matrix in pair]
                for place, sums in zip(taken, dots(code, xs, weights, hidden, room), strict=True):
                    for output in range(at_once):
                        product = code.call("gated", sums[2 * output : 2 * output + 2], F32)
                        between.put(place * inner + begin + start + output, product)

        by_rows(code, rows, write)
    code.do("ret void")
    return code
