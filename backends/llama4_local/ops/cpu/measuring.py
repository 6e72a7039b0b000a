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

from llama4_local.ops.cpu import library
from llama4_local.ops.cpu.products import (
    BEYOND,
    BUCKETS,
    Form,
    Layout,
    Products,
    by_rows,
    compiled,
    laid_out,
    natively,
    onednn,
    onednn_twice,
    weight_first,
    widened,
)
from llama4_local.ops.reference import rows

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
_FUSED = 1.25  # at least the gain of a feed-forward in one kernel over its products one by one
_MOVING = 1.1  # a matrix is moved for a gain beyond this factor only

_FIRST = (1, 8, 32, 2, 4)  # the buckets in the order in which they are timed
# Where a type is not multiplied natively, forms differ little for one row and by factors of seven and more for many.
_FIRST_NARROW = (32, 1, 8, 2, 4)

_Shape = tuple[int, int]  # outputs, inputs
_CANDIDATES: dict[Layout, tuple[Form, ...]] = {
    "rows": (rows.linear, weight_first, onednn),
    "columns": (rows.linear, weight_first, onednn),
    "blocks": (onednn, onednn_twice),
}
_ABSENT = (RuntimeError, AttributeError)  # of an operator that this build of torch has not, or not for a dtype


@dataclass(frozen=True, slots=True)
class _Times:
    """The fastest forms of a layout by bucket and for `BEYOND`, and the seconds of the buckets."""

    seconds: dict[int, float]
    forms: dict[int, Form]


_Timed = dict[Layout, _Times]


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
    library.machine(dtype)  # compiled before the clock starts
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
        forms |= {(*shape, layout): by_rows(of.forms) for layout, of in own.items()}
    return Choice(layouts, Products(forms))


def in_rows(shapes: Iterable[_Shape], dtype: torch.dtype) -> Choice | None:
    """Return what the compiled products take, every matrix in rows; None without them. Nothing is timed."""
    return None if library.machine(dtype) is None else Choice(dict.fromkeys(shapes, ("rows", "rows")))


class _BusyError(Exception):
    """Times would be those of other work."""


def _unmeasured(shapes: Sequence[_Shape], dtype: torch.dtype) -> Choice:
    """Return what no measured processor does slowly: the compiled kernels, else oneDNN's blocks.

    Many rows are multiplied in fp32 where oneDNN has not the type, and without kernels 8 and more.
    """
    many = rows.linear if natively(dtype) else widened
    if library.machine(dtype) is None:
        with suppress(*_ABSENT):
            if natively(dtype):
                onednn(torch.ones((1, 64), dtype=dtype), laid_out(torch.ones((64, 64), dtype=dtype), "blocks"))
                return Choice(dict.fromkeys(shapes, ("blocks", "blocks")))
        of_rows: dict[int, Form] = {bucket: rows.linear if bucket < _WORTH_WIDENING else many for bucket in BUCKETS}
    else:
        of_rows = dict.fromkeys(BUCKETS, compiled)
    forms: dict[tuple[int, int, Layout], Sequence[Form]] = {
        (*shape, "rows"): by_rows({**of_rows, BEYOND: many}) for shape in shapes
    }
    return Choice(dict.fromkeys(shapes, ("rows", "rows")), Products(forms))


def _capped(shape: _Shape) -> _Shape:
    outputs, inputs = shape
    return min(outputs, max(1, _LARGEST // inputs)), inputs


def _most_similar(shape: _Shape, others: Iterable[_Shape]) -> _Shape:
    def distance(other: _Shape) -> float:
        return sum(abs(math.log(a / b)) for a, b in zip(shape, other, strict=True))

    return min(others, key=distance)


def _best(timed: _Timed, stored: Layout) -> Layout:
    """Return the layout that loses least on average over the buckets; moving the matrix must be worth it."""
    fastest = {bucket: min(times.seconds[bucket] for times in timed.values()) for bucket in BUCKETS}
    loss: dict[Layout, float] = {
        layout: sum(times.seconds[bucket] / fastest[bucket] for bucket in BUCKETS) / len(BUCKETS)
        for layout, times in timed.items()
    }
    best = min(loss, key=loss.__getitem__)
    return best if stored not in loss or loss[best] * _MOVING < loss[stored] else stored


def _timed(shape: _Shape, dtype: torch.dtype, network: int, deadline: float) -> _Timed:
    """Time every form of each layout; after the deadline, buckets take the forms of those that were timed."""
    outputs, inputs = shape
    count = max(2, min(_MATRICES, network // _PART // (outputs * inputs)))
    matrices = _matrices(torch.ones((count, outputs, inputs), dtype=dtype), deadline)
    by_bucket: dict[int, dict[tuple[Layout, Form], float]] = {}
    for bucket in _FIRST if len(matrices) > 1 else _FIRST_NARROW:
        if not by_bucket or time.perf_counter() < deadline:
            by_bucket[bucket] = _seconds(torch.ones((bucket, inputs), dtype=dtype), matrices, deadline)
    return {layout: _of_layout(layout, by_bucket) for layout in matrices}


def _of_layout(layout: Layout, by_bucket: dict[int, dict[tuple[Layout, Form], float]]) -> _Times:
    """Return the fastest forms of a layout; beyond the buckets the compiled one reads its rows too often."""
    seconds: dict[int, float] = {}
    forms: dict[int, Form] = {}
    for bucket in BUCKETS:
        near = by_bucket[min(by_bucket, key=lambda other: abs(math.log(other / bucket)))]
        own = {form: taken / (_FUSED if form is compiled else 1) for (of, form), taken in near.items() if of == layout}
        forms[bucket], seconds[bucket] = min(own.items(), key=itemgetter(1))
    most = by_bucket[max(by_bucket)]
    forms[BEYOND] = min(
        (form for of, form in most if of == layout and form is not compiled), key=lambda form: most[layout, form]
    )
    return _Times(seconds, forms)


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
    of_rows: list[Form] = [compiled] if library.machine(x.dtype) is not None else []
    if x.dtype != torch.float32:
        of_rows.append(widened)
    forms: list[tuple[Layout, Form]] = []
    for layout, stack in matrices.items():
        for form in (*_CANDIDATES[layout], *(of_rows if layout == "rows" else [])):
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
