"""Functions of rows whose result for a row is the same bits in any company of other rows.

Libraries sum in another order where there are more rows, and compute the last elements of a memory area by other code.
Which numbers of rows agree depends on library, processor, shape and threads. So each function is tried out: rows are
computed in those numbers of rows only that gave a row the same result at every place.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from torch import Tensor

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64)  # numbers of rows that are tried

_LINE = 64  # bytes; libraries choose code by where memory lies within so many
_OUTPUTS = 64  # of a trial matrix that differ
_TRIALS = 2  # rows that a product is tried with: each of its outputs is rounding error alone
_LEAST_TRIALS, _MOST_TRIALS, _TRIAL_NUMBERS = 4, 64, 2048  # of other functions, which differ in few numbers


class InvariantRows:
    """Applies functions of rows; remembers the numbers of rows that are right for each."""

    def __init__(self) -> None:
        self._sizes: dict[Hashable, tuple[int, ...]] = {}

    def apply(self, function: Callable[..., Tensor], *inputs: Tensor, key: Hashable) -> Tensor:
        """Return `function(*inputs)`, a row of which depends on the same row of the inputs alone.

        Args:
            function: Takes tensors of equally many rows, and returns one; in fp32, in which any difference shows.
            inputs: [rows, ...] each.
            key: Names the function.
        """
        width = sum(x[:1].numel() for x in inputs)
        count = min(_MOST_TRIALS, max(_LEAST_TRIALS, _TRIAL_NUMBERS // width))
        sizes = self._known(
            (key, *((x.shape[1:], x.dtype) for x in inputs)),
            lambda: (function, [_random((count, *x.shape[1:]), x) for x in inputs]),
        )
        return _in_pieces(function, inputs, sizes)

    def product(self, x: Tensor, weight: Tensor, linear: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return x [rows, in] times the transpose of `weight` [out, in] by `linear`."""
        place = weight.data_ptr() % _LINE
        key = ("product", linear, weight.dtype, weight.shape, weight.stride(), place)

        def trial() -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
            matrix, rows = _cancelling(weight)
            return partial(_swapped, linear, matrix), [rows]

        return _in_pieces(partial(_swapped, linear, weight), (x,), self._known(key, trial))

    def _known(self, key: Hashable, trial: Callable[[], tuple[Callable[..., Tensor], list[Tensor]]]) -> tuple[int, ...]:
        full = (key, torch.get_num_threads())
        if full not in self._sizes:
            self._sizes[full] = agreeing_sizes(*trial())
        return self._sizes[full]


def agreeing_sizes(function: Callable[..., Tensor], rows: list[Tensor]) -> tuple[int, ...]:
    """Return numbers of rows with which a function gives each row one result at every place: the most that agree.

    Args:
        function: See `InvariantRows.apply`.
        rows: Its inputs, [trials, ...] each; each row is tried alone.
    """
    classes: list[tuple[list[Tensor], list[int]]] = []
    for size in SIZES:
        results = [function(*(x[row].expand(size, *x.shape[1:]).clone() for x in rows)) for row in range(len(rows[0]))]
        if not all(torch.equal(result, result[:1].expand_as(result)) for result in results):
            continue
        firsts = [result[0] for result in results]
        alike = next((sizes for known, sizes in classes if all(map(torch.equal, known, firsts))), None)
        if alike is None:
            classes.append((firsts, [size]))
        else:
            alike.append(size)
    return tuple(max((sizes for _, sizes in classes), key=lambda sizes: (len(sizes), sizes[-1])))


def _swapped(linear: Callable[[Tensor, Tensor], Tensor], weight: Tensor, x: Tensor) -> Tensor:
    return linear(x, weight)


def _in_pieces(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], sizes: tuple[int, ...]) -> Tensor:
    count, largest = len(inputs[0]), sizes[-1]
    if not count or count in sizes:
        return function(*(x.contiguous() for x in inputs))
    parts: list[Tensor] = []
    for start in range(0, count, largest):
        here = min(largest, count - start)
        size = next(size for size in sizes if size >= here)
        parts.append(function(*(_padded(x[start : start + here], size) for x in inputs))[:here])
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _padded(x: Tensor, rows: int) -> Tensor:
    missing = rows - len(x)
    return functional.pad(x, (0, 0) * (x.ndim - 1) + (0, missing)) if missing else x.contiguous()


def _cancelling(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix as another lies in memory, and rows [trials, in], whose products are rounding errors alone."""
    outputs, inputs = weight.shape
    source = torch.Generator().manual_seed(0)
    first, second = torch.randperm(inputs, generator=source)[: inputs // 2 * 2].chunk(2)
    block = torch.randn((min(outputs, _OUTPUTS), inputs), generator=source).to(weight.dtype)
    rows = torch.zeros((_TRIALS, inputs), dtype=weight.dtype)
    rows[:, first] = torch.randn((_TRIALS, len(first)), generator=source).to(weight.dtype)
    block[:, second], rows[:, second] = block[:, first], -rows[:, first]
    matrix = _placed_like(weight)
    for start in range(0, outputs, _OUTPUTS):
        matrix[start : start + _OUTPUTS] = block[: min(_OUTPUTS, outputs - start)]
    return matrix, rows.to(weight.device)


def _placed_like(weight: Tensor) -> Tensor:
    """Return memory for a matrix in the same order, and at the same place within a cache line."""
    (outputs, inputs), per_line = weight.shape, _LINE // weight.element_size()
    long, width = (inputs, weight.stride(0)) if weight.stride(1) == 1 else (outputs, weight.stride(1))
    pitch = long + (width - long) % per_line  # of a part of a matrix: its gaps need not be as wide
    strides = (pitch, 1) if weight.stride(1) == 1 else (1, pitch)
    room = weight.new_zeros(pitch * (outputs if strides[1] == 1 else inputs) + 2 * per_line)
    ahead = (weight.data_ptr() - room.data_ptr()) % _LINE // weight.element_size()
    return room.as_strided((outputs, inputs), strides, ahead)


def _random(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return (3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(like.device, like.dtype)
