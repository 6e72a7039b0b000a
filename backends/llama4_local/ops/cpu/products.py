"""The forms of a product of few rows with a matrix, of which `measuring` takes the fastest on a processor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from llama4_local.ops.cpu import library
from llama4_local.ops.reference import rows

# How a matrix [out, in] lies in memory: each output's weights side by side, each input's, or in oneDNN's blocks.
Layout = Literal["rows", "columns", "blocks"]
Form = Callable[[Tensor, Tensor], Tensor]

BUCKETS = (1, 2, 4, 8, 32)  # numbers of rows with a form of their own; others take that of the next larger one
BEYOND = BUCKETS[-1] + 1  # stands for more
_BLOCKED_FOR = 64  # rows that blocks are laid out for; from 8 on their order is the same for all
_AT_ONCE = 1 << 19  # numbers that are widened together


@dataclass(frozen=True, slots=True)
class Products:
    """Products with the matrices of one network on one processor.

    Args:
        forms: For shape and layout of a matrix, the form of a product with each number of rows up to
            `BEYOND`, that of 0 rows first; matrices without an entry take `rows.linear`.
    """

    forms: Mapping[tuple[int, int, Layout], Sequence[Form]] = field(
        default_factory=dict[tuple[int, int, Layout], Sequence[Form]]
    )

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return x [rows, in] times the transpose of `weight` [out, in], in any layout."""
        if not weight.is_mkldnn and torch.is_grad_enabled():
            return rows.linear(x, weight)
        return self.form(x.shape[0], weight)(x, weight)

    def form(self, count: int, weight: Tensor) -> Form:
        """Return the form of a product of so many rows with a matrix."""
        blocked = weight.is_mkldnn
        outputs, inputs = weight.shape
        forms = self.forms.get((outputs, inputs, "blocks" if blocked else _layout(weight)))
        if forms is not None:
            return forms[min(count, BEYOND)]
        return onednn if blocked else rows.linear


def by_rows(forms: Mapping[int, Form]) -> tuple[Form, ...]:
    """Return forms of buckets and of `BEYOND` as `Products.forms` holds them."""
    spans = pairwise((-1, *BUCKETS, BEYOND))
    return tuple(forms[bucket] for before, bucket in spans for _ in range(bucket - before))


def weight_first(x: Tensor, weight: Tensor) -> Tensor:
    """Return the product with the matrix on the left.

    For one row some libraries take a path on one core with low bandwidth, hence a second row.
    """
    columns = (torch.cat((x, x)) if len(x) == 1 else x).t()
    return torch.mm(weight, columns).t()[: len(x)].contiguous()


def compiled(x: Tensor, weight: Tensor) -> Tensor:
    """Return the product by this project's own kernel, where it takes such rows and such a matrix."""
    x = x.contiguous()
    return library.multiply(x, weight) if library.takes(x, weight) else rows.linear(x, weight)


def onednn(x: Tensor, weight: Tensor) -> Tensor:
    """Return the product by oneDNN, with a number of rows that it has compiled before."""
    count = x.shape[0]
    size = rows.rounded_up(count)
    if size == count:
        return _linear_pointwise(x, weight)
    return _linear_pointwise(functional.pad(x, (0, 0, 0, size - count)), weight)[:count]


def onednn_twice(x: Tensor, weight: Tensor) -> Tensor:
    """Return the product of one row, made as that of two: oneDNN has other code for a single one."""
    return _linear_pointwise(torch.cat((x, x)), weight)[:1] if x.shape[0] == 1 else onednn(x, weight)


def natively(dtype: torch.dtype) -> bool:
    """Return whether oneDNN multiplies in a type on this processor; without it torch's own products are slow."""
    try:
        if dtype == torch.bfloat16:
            return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        if dtype == torch.float16:
            return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    except AttributeError:  # this build of torch is without it
        return False
    return True


def widened(x: Tensor, weight: Tensor) -> Tensor:
    """Return the product in fp32, some outputs at a time: for processors that cannot multiply in a narrow type."""
    wide = x.float()
    step = max(1, _AT_ONCE // weight.shape[1])
    return torch.cat([functional.linear(wide, part.float()) for part in weight.split(step)], dim=1).to(x.dtype)


def laid_out(weight: Tensor, layout: Layout) -> Tensor:
    """Return a matrix [out, in] in a layout: itself where it has it, else a copy, opaque to all but `onednn`."""
    match layout:
        case "rows":
            return weight.contiguous()
        case "columns":
            return weight.t().contiguous().t()
        case "blocks":
            # The operators of torch's own compiler for CPUs (torch._inductor, `mkldnn_fusion`).
            return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _BLOCKED_FOR)


def _linear_pointwise(x: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, None, "none", [], "")


def _layout(weight: Tensor) -> Layout:
    return "rows" if weight.stride(1) == 1 else "columns"
