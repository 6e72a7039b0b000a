"""The product of rows with a matrix."""

from __future__ import annotations

from llama4_local.ops.cpu.dots import TILES, by_rows, dots, share, tiles
from llama4_local.ops.cpu.ir import F32, I64, PTR, Function, Value
from llama4_local.ops.cpu.kernel import Kernel
from llama4_local.ops.cpu.numbers import Array, rounded

LEAST_OUTPUTS = TILES[1]  # of a matrix; fewer do not make a tile


def linear(*, narrow: bool) -> Kernel:
    """Return out [rows, outputs] = x [rows, inputs] times the transpose of weight [outputs, inputs]."""
    code = Kernel("linear", narrow=narrow)
    out, x, weight = (code.take_array() for _ in range(3))
    rows, outputs, inputs = (code.take_count() for _ in range(3))
    multiply(code, (out, x, weight), code.null(), rows, share(code, outputs, LEAST_OUTPUTS), (outputs, inputs))
    code.do("ret void")
    return code


def multiply(
    code: Kernel,
    arrays: tuple[Array, Array, Array],
    places: Value,
    rows: Value,
    part: tuple[Value, Value],
    sizes: tuple[Value, Value],
    added: Array | None = None,
) -> None:
    """Call the function of `multiply_function`.

    Args:
        code: The caller.
        arrays: Products, rows and weights.
        places: Address of the places of the rows to take, or null for the first ones.
        rows: Their number.
        part: This thread's outputs.
        sizes: Numbers of a row of products, and of one that is multiplied.
        added: Added to each product after that is rounded.
    """
    bases = [each.base for each in arrays]
    first, last = part
    extra = [] if added is None else [added.base]
    code.call(_name(added is not None), (*bases, *extra, places, rows, first, last, *sizes))


def multiply_function(*, narrow: bool, adds: bool) -> Function:
    """Return a function that multiplies rows at some places with some outputs' weights, see `multiply`."""
    code = Function(_name(adds), [PTR] * (5 if adds else 4) + [I64] * 5)
    out, x, weight, *extra = (Array(code, base, narrow) for base in code.arguments[:-6])
    places, rows, first, last, outputs, inputs = code.arguments[-6:]
    room = code.room(F32, 8)
    with tiles(code, (first, last), LEAST_OUTPUTS) as begin:
        own = [weight.at((begin + output) * inputs) for output in range(LEAST_OUTPUTS)]

        def write(row: Value, many: int) -> None:
            taken = [place_of(code, places, row + each) for each in range(many)]
            xs = [x.at(place * inputs) for place in taken]
            for start in range(0, LEAST_OUTPUTS, TILES[many]):
                sums = dots(code, xs, own[start : start + TILES[many]], inputs, room)
                for place, values in zip(taken, sums, strict=True):
                    for output, value in enumerate(values, start):
                        spot = place * outputs + begin + output
                        out.put(spot, rounded(code, value, narrow=narrow) + extra[0].number(spot) if extra else value)

        by_rows(code, rows, write)
    code.do("ret void")
    return code


def place_of(code: Function, places: Value, index: Value) -> Value:
    """Return one of the places at an address, or the index itself where that is null."""
    place = code.slot(I64, index)
    with code.when(code.let("i1", f"icmp ne ptr {places.name}, null")):
        place.set(code.load(code.at(places, index, I64), I64, 8))
    return place.get()


def _name(adds: bool) -> str:
    return "multiply_add" if adds else "multiply"
