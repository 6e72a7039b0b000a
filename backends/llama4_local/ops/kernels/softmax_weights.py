# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false
# Triton is untyped: a jitted function's parameters are blocks and pointers, not Python values.
"""Unnormalised softmax weights of a row of logits, recomputed wherever a kernel reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

COLDEST = tl.constexpr(1e-6)  # at lower temperatures the top-1 token has all the weight


class RowLogits(NamedTuple):
    """Logits and the tensors that turn them into weights.

    Args:
        logits: [rows, vocab], fp32.
        tops: [rows, blocks], fp32: largest logit of each block; +inf where a block holds a NaN.
        temperature: [rows], fp32.
    """

    logits: Tensor
    tops: Tensor
    temperature: Tensor


@triton.jit
def weights(source, row, token, vocab, blocks, BLOCKS: tl.constexpr):
    """Return exp((logit - largest) / temperature) of tokens of a row: the top-1 token weighs 1."""
    b = tl.arange(0, BLOCKS)
    best = tl.max(tl.load(source.tops + row * blocks + b, mask=b < blocks, other=float("-inf")), 0)
    value = tl.load(source.logits + row.to(tl.int64) * vocab + token, mask=token < vocab, other=float("-inf"))
    return tl.exp((value - best) / tl.maximum(tl.load(source.temperature + row), COLDEST))
