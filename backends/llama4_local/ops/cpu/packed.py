"""Products of rows with packed matrices, see `weights.quantized`: int4 in groups of 64 or 128, and e4m3."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from llama4_local.ops.cpu.dots import TILES, by_rows, share, tiles
from llama4_local.ops.cpu.ir import F32, I16, I32, I64, PTR, Function, vector
from llama4_local.ops.cpu.kernel import Kernel
from llama4_local.ops.cpu.linear import LEAST_OUTPUTS
from llama4_local.ops.cpu.numbers import WIDTH, Array, total

if TYPE_CHECKING:
    from collections.abc import Callable

    from llama4_local.ops.cpu.ir import Slot, Value

_I8 = "i8"
PARTS = 4  # quarters of an int4 group, one above the other in words of 16 bits
_MIDDLE = 8  # is stored as the int4 number 0
_EXPONENT = 120  # by which e4m3's bits, moved to where fp32 has its own, are too small: 127 - 7

_Sums = dict[tuple[int, int], "Slot"]


def int4_function(rows: int, outputs: int, *, narrow: bool) -> Function:
    """Return a function that takes rows, packed weights, scales, size, distance of scales, group, and where sums go.

    A group's numbers are summed as they are stored, then times their scale.
    """
    code = Function(_name("int4", rows, outputs), [PTR] * (rows + 2 * outputs) + [I64] * 3 + [PTR])
    size, distance, group, out = code.arguments[-4:]
    xs = [Array(code, base, narrow) for base in code.arguments[:rows]]
    packed = code.arguments[rows : rows + outputs]
    scales = [Array(code, base, narrow=True) for base in code.arguments[rows + outputs : rows + 2 * outputs]]
    sums, parts = _slots(code, rows, outputs), _slots(code, rows, outputs)
    quarter = group // PARTS
    with code.loop(0, size // group) as number:
        begin = number * group
        for part in parts.values():
            part.set(0)
        with code.loop(0, quarter, WIDTH) as place:
            words = [_words(code, base, number * quarter + place) for base in packed]
            for part in range(PARTS):
                own = [x.vector(begin + quarter * part + place) for x in xs]
                for output, word in enumerate(words):
                    nibble = code.bits("and", code.bits("lshr", word, 4 * part), 0xF)
                    values = code.cast("sitofp", nibble - _MIDDLE, vector(F32, WIDTH))
                    for row, x in enumerate(own):
                        of = parts[row, output]
                        of.set(code.fma(values, x, of.get()))
        factors = [code.splat(scale.number(number * distance), WIDTH) for scale in scales]
        for (row, output), of in sums.items():
            of.set(code.fma(parts[row, output].get(), factors[output], of.get()))
    _finish(code, out, outputs, sums)
    return code


def e4m3_function(rows: int, outputs: int, *, narrow: bool) -> Function:
    """Return a function that takes rows, weights in e4m3 without NaN, scales, their size, and where the sums go."""
    code = Function(_name("e4m3", rows, outputs), [PTR] * (rows + 2 * outputs) + [I64, PTR])
    size, out = code.arguments[-2:]
    xs = [Array(code, base, narrow) for base in code.arguments[:rows]]
    values = code.arguments[rows : rows + outputs]
    scales = [Array(code, base, narrow=False) for base in code.arguments[rows + outputs : rows + 2 * outputs]]
    sums = _slots(code, rows, outputs)
    with code.loop(0, size, WIDTH) as place:
        own = [x.vector(place) for x in xs]
        for output, base in enumerate(values):
            weights = _from_e4m3(code, code.load(code.at(base, place, _I8), vector(_I8, WIDTH), 1))
            for row, x in enumerate(own):
                of = sums[row, output]
                of.set(code.fma(weights, x, of.get()))
    factors = [code.splat(scale.number(0), WIDTH) for scale in scales]
    for (_, output), of in sums.items():
        of.set(of.get() * factors[output])
    _finish(code, out, outputs, sums)
    return code


def packed_functions(*, narrow: bool) -> list[Function]:
    """Return those that the kernels call."""
    return [write(*tile, narrow=narrow) for write in (int4_function, e4m3_function) for tile in TILES.items()]


def int4_linear(*, narrow: bool) -> Kernel:
    """Return the product with an int4 matrix; arguments: out, x, packed, scales; rows, outputs, inputs, group."""
    code = Kernel("int4_linear", narrow=narrow)
    out, x, packed, scales = code.take_array(), code.take_array(), code.take_places(), code.take_places()
    rows, outputs, inputs, group = (code.take_count() for _ in range(4))

    def weights_of(output: Value) -> tuple[Value, Value]:
        return code.at(packed, output * (inputs // 2), _I8), code.at(scales, output, I16)

    _linear(code, "int4", (out, x), (rows, outputs, inputs), weights_of, (outputs, group))
    return code


def e4m3_linear(*, narrow: bool) -> Kernel:
    """Return the product with a matrix in e4m3; arguments: out, x, values, scales; rows, outputs, inputs."""
    code = Kernel("e4m3_linear", narrow=narrow)
    out, x, values, scales = code.take_array(), code.take_array(), code.take_places(), code.take_places()
    rows, outputs, inputs = (code.take_count() for _ in range(3))

    def weights_of(output: Value) -> tuple[Value, Value]:
        return code.at(values, output * inputs, _I8), code.at(scales, output, F32)

    _linear(code, "e4m3", (out, x), (rows, outputs, inputs), weights_of, ())
    return code


def _linear(
    code: Kernel,
    kind: str,
    arrays: tuple[Array, Array],
    sizes: tuple[Value, Value, Value],
    weights_of: Callable[[Value], tuple[Value, Value]],
    more: tuple[Value, ...],
) -> None:
    """Multiply all rows with this thread's outputs, `weights_of` each of which are values and scales."""
    (out, x), (rows, outputs, inputs) = arrays, sizes
    room = code.room(F32, WIDTH)
    with tiles(code, share(code, outputs, LEAST_OUTPUTS), LEAST_OUTPUTS) as begin:
        own = [weights_of(begin + output) for output in range(LEAST_OUTPUTS)]

        def write(row: Value, many: int) -> None:
            xs = [x.at((row + each) * inputs).base for each in range(many)]
            width = TILES[many]
            for start in range(0, LEAST_OUTPUTS, width):
                values, scales = zip(*own[start : start + width], strict=True)
                code.call(_name(kind, many, width), (*xs, *values, *scales, inputs, *more, room))
                sums = Array(code, room, narrow=False)
                for each, output in product(range(many), range(width)):
                    spot = (row + each) * outputs + begin + (start + output)
                    out.put(spot, sums.number(each * width + output))

        by_rows(code, rows, write)
    code.do("ret void")


def _slots(code: Function, rows: int, outputs: int) -> _Sums:
    return {each: code.slot(vector(F32, WIDTH), 0) for each in product(range(rows), range(outputs))}


def _words(code: Function, base: Value, index: Value) -> Value:
    kind = vector(I16, WIDTH)
    return code.cast("zext", code.load(code.at(base, index, I16), kind, 1), vector(I32, WIDTH))


def _from_e4m3(code: Function, stored: Value) -> Value:
    """Return e4m3 as fp32: sign, exponent and mantissa moved to their places, then scaled by a power of two."""
    bits = code.cast("zext", stored, vector(I32, WIDTH))
    sign = code.bits("shl", code.bits("and", bits, 0x80), 24)
    number = code.bits("shl", code.bits("and", bits, 0x7F), 20)
    return code.cast("bitcast", code.bits("or", sign, number), vector(F32, WIDTH)) * 2.0**_EXPONENT


def _finish(code: Function, out: Value, outputs: int, sums: _Sums) -> None:
    array = Array(code, out, narrow=False)
    for (row, output), of in sums.items():
        array.put(row * outputs + output, total(code, of.get()))
    code.do("ret void")


def _name(kind: str, rows: int, outputs: int) -> str:
    return f"{kind}_dots_{rows}_{outputs}"
