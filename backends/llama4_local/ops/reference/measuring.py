"""Takes the layout of each matrix of a network, and the form of each product, by timing them when it is loaded.

Which is fastest differs between processors and libraries by factors of up to five, so no constant can say it.
"""

from __future__ import annotations

import math
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from operator import itemgetter
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llama4_local.ops.reference import rows
from llama4_local.ops.reference.products import (
    BUCKETS,
    Form,
    Layout,
    Products,
    by_rows,
    laid_out,
    natively,
    onednn,
    onednn_twice,
    weight_first,
    widened,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_PATIENCE = 0.2  # seconds for all measurements together; matrices left over take the choice of the most similar one
_GRACE = 0.05  # seconds after it for forms that are being tried; beyond, the machine is busy
_LARGEST = 1 << 20  # numbers of a timed matrix: beyond the caches next to the cores, quick to read
_SMALLEST = 1 << 14  # numbers below which a library's overhead costs more than the product
_MATRICES = 8  # that are read in turns: the large ones are together more than most caches hold
_PART = 8  # the timed matrices of one shape take this part of the network's memory, or two matrices
_ROUNDS, _LEAST_ROUNDS = 6, 3  # of timing every form; fewer after the deadline
_HOPELESS = 1.5  # times the fastest, after which a form is timed no more
_UNSTEADY = 1.5  # the second fastest time over the fastest one, of the median form, on a machine that is busy
_SLOWEST = 1e9  # bytes per second; any processor reads a matrix faster unless its time goes elsewhere
_WORTH_WIDENING = 8  # rows for which a matrix is widened without a measurement, where its type is not native
_MOVING = 1.1  # a matrix is moved for a gain beyond this factor only

_FIRST = (1, 8, 32, 2, 4)  # the buckets in the order in which they are timed
# Where a type is not multiplied natively, forms differ little for one row and by factors of seven and more for many.
_FIRST_NARROW = (32, 1, 8, 2, 4)

_Shape = tuple[int, int]  # outputs, inputs
_Timed = dict[Layout, dict[int, tuple[float, Form]]]  # seconds and form, by layout and bucket
_CANDIDATES: dict[Layout, tuple[Form, ...]] = {
    "rows": (rows.linear, weight_first, onednn),
    "columns": (rows.linear, weight_first, onednn),
    "blocks": (onednn, onednn_twice),
}
_ABSENT = (RuntimeError, AttributeError)  # of an operator that this build of torch has not, or not for a dtype


@dataclass(frozen=True, slots=True)
class Choice:
    """The layouts of a network's matrices, and the products with them.

    Args:
        layouts: For each shape (outputs, inputs) that was timed: the layout of a matrix that lies in rows where it
            is stored, and that of one that lies in columns.
        products: Their products.
    """

    layouts: dict[_Shape, tuple[Layout, Layout]] = field(default_factory=dict[_Shape, tuple[Layout, Layout]])
    products: Products = field(default_factory=Products)

    def layout(self, outputs: int, inputs: int, stored: Layout) -> Layout:
        """Return the layout for a matrix that is stored in another, or the same."""
        in_rows, in_columns = self.layouts.get((outputs, inputs), (stored, stored))
        return in_columns if stored == "columns" else in_rows


@torch.inference_mode()
def choose(shapes: Iterable[_Shape], dtype: torch.dtype, *, network: int, patience: float = _PATIENCE) -> Choice:
    """Time products with matrices of some shapes on this CPU.

    Args:
        shapes: Outputs and inputs of the network's matrices, those that matter most first.
        dtype: Of weights and activations.
        network: Numbers in the network's matrices together: where they are few, they stay in the caches.
        patience: Seconds after which no further shape is timed.
    """
    deadline = time.perf_counter() + patience
    large = [shape for shape in dict.fromkeys(shapes) if math.prod(shape) >= _SMALLEST]
    timed: dict[_Shape, _Timed] = {}
    for shape in large:
        if not timed or time.perf_counter() < deadline:
            like = _capped(shape)
            try:
                timed[like] = timed.get(like) or _timed(like, dtype, network, deadline)
            except _BusyError:
                return _unmeasured(large, dtype)
    layouts: dict[_Shape, tuple[Layout, Layout]] = {}
    forms: dict[tuple[int, int, Layout], Sequence[Form]] = {}
    for shape in large:
        own = timed[_most_similar(_capped(shape), timed)]
        layouts[shape] = _best(own, "rows"), _best(own, "columns")
        forms |= {(*shape, layout): by_rows({b: form for b, (_, form) in of.items()}) for layout, of in own.items()}
    return Choice(layouts, Products(forms))


class _BusyError(Exception):
    """Times would be those of other work."""


def _unmeasured(shapes: Sequence[_Shape], dtype: torch.dtype) -> Choice:
    """Return what no measured processor does slowly: oneDNN's blocks, or fp32 products where it has not the type.

    Nothing moves where both are out of the question.
    """
    if not natively(dtype):
        few_and_more = by_rows({bucket: rows.linear if bucket < _WORTH_WIDENING else widened for bucket in BUCKETS})
        forms: dict[tuple[int, int, Layout], Sequence[Form]] = {(*shape, "rows"): few_and_more for shape in shapes}
        return Choice(dict.fromkeys(shapes, ("rows", "rows")), Products(forms))
    with suppress(*_ABSENT):
        onednn(torch.ones((1, 64), dtype=dtype), laid_out(torch.ones((64, 64), dtype=dtype), "blocks"))
        return Choice(dict.fromkeys(shapes, ("blocks", "blocks")))
    return Choice()


def _capped(shape: _Shape) -> _Shape:
    outputs, inputs = shape
    return min(outputs, max(1, _LARGEST // inputs)), inputs


def _most_similar(shape: _Shape, others: Iterable[_Shape]) -> _Shape:
    def distance(other: _Shape) -> float:
        return sum(abs(math.log(a / b)) for a, b in zip(shape, other, strict=True))

    return min(others, key=distance)


def _best(timed: _Timed, stored: Layout) -> Layout:
    """Return the layout that loses least on average over the buckets; moving the matrix must be worth it."""
    fastest = {bucket: min(times[bucket][0] for times in timed.values()) for bucket in BUCKETS}
    loss: dict[Layout, float] = {
        layout: sum(times[bucket][0] / fastest[bucket] for bucket in BUCKETS) / len(BUCKETS)
        for layout, times in timed.items()
    }
    best = min(loss, key=loss.__getitem__)
    return best if stored not in loss or loss[best] * _MOVING < loss[stored] else stored


def _timed(shape: _Shape, dtype: torch.dtype, network: int, deadline: float) -> _Timed:
    """Time every form of each layout; after the deadline, buckets take the forms of those that were timed."""
    outputs, inputs = shape
    count = max(2, min(_MATRICES, network // _PART // (outputs * inputs)))
    matrices = _matrices(torch.ones((count, outputs, inputs), dtype=dtype), deadline)
    by_bucket: dict[int, dict[Layout, tuple[float, Form]]] = {}
    for bucket in _FIRST if len(matrices) > 1 else _FIRST_NARROW:
        if not by_bucket or time.perf_counter() < deadline:
            times = _seconds(torch.ones((bucket, inputs), dtype=dtype), matrices, deadline)
            by_bucket[bucket] = {
                layout: min(
                    ((seconds, form) for (own, form), seconds in times.items() if own == layout), key=itemgetter(0)
                )
                for layout in matrices
            }
    return {
        layout: {
            bucket: by_bucket[min(by_bucket, key=lambda other: abs(math.log(other / bucket)))][layout]
            for bucket in BUCKETS
        }
        for layout in matrices
    }


def _matrices(stack: Tensor, deadline: float) -> dict[Layout, cycle[Tensor]]:
    """Return matrices in each layout, without end, in turns."""
    count, outputs, inputs = stack.shape
    if not natively(stack.dtype):
        return {"rows": cycle(stack.unbind())}  # every product widens the matrix first, best where it lies in rows
    stacks: dict[Layout, Sequence[Tensor]] = {
        "rows": stack.unbind(),
        "columns": stack.view(count, inputs, outputs).transpose(1, 2).unbind(),
    }
    blocks: list[Tensor] = []
    with suppress(*_ABSENT):
        for matrix in stack:
            if not blocks or time.perf_counter() < deadline:
                blocks.append(laid_out(matrix, "blocks"))
        onednn(stack.new_ones((1, inputs)), blocks[0])
        stacks["blocks"] = blocks
    return {layout: cycle(matrices) for layout, matrices in stacks.items()}


def _seconds(x: Tensor, matrices: dict[Layout, cycle[Tensor]], deadline: float) -> dict[tuple[Layout, Form], float]:
    """Return the least time of every form that runs; the plain one always does."""
    narrow = (widened,) if x.dtype != torch.float32 else ()
    forms: list[tuple[Layout, Form]] = []
    for layout, stack in matrices.items():
        for form in (*_CANDIDATES[layout], *(narrow if layout == "rows" else ())):
            with suppress(*_ABSENT):
                form(x, next(stack))  # compiles it
                forms.append((layout, form))
            if time.perf_counter() > deadline + _GRACE:
                raise _BusyError
    times: dict[tuple[Layout, Form], list[float]] = {key: [] for key in forms}
    for turn in range(_ROUNDS):
        for (layout, form), own in times.items():
            late = turn >= _LEAST_ROUNDS and time.perf_counter() > deadline
            if late or (turn >= _LEAST_ROUNDS and min(own) > _HOPELESS * min(map(min, times.values()))):
                continue
            matrix = next(matrices[layout])
            begun = time.perf_counter()
            form(x, matrix)
            own.append(time.perf_counter() - begun)
    if is_busy(list(times.values()), next(matrices["rows"]).nbytes):
        raise _BusyError
    return {key: min(own) for key, own in times.items()}


def is_busy(times: Sequence[Sequence[float]], size: int) -> bool:
    """Whether other work disturbed the timing too much: times differ from round to round, or all are implausible.

    Args:
        times: Seconds of every form, round by round.
        size: Bytes of the matrix.
    """
    fastest = [sorted(own)[:2] for own in times]
    unsteady = statistics.median(second / first for first, second in fastest) > _UNSTEADY
    return unsteady or size / min(map(min, times)) < _SLOWEST
