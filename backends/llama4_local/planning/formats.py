"""How many bytes a matrix of weights takes in each format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llama4sdk.errors import InvalidRequest

Format = Literal["plain", "int4", "fp8"]
_GROUPS = (128, 64, 32)  # inputs that share a scale in int4: the largest that divides them
_INT4_SCALE = 2  # bytes, bf16
_FP8_SCALE = 4  # bytes, fp32, one for each output


@dataclass(frozen=True, slots=True)
class Storage:
    """In which format each kind of matrix is kept.

    Router, norms, embedding, head and image encoder are always plain.

    Args:
        attention: Projections of attention.
        feed_forward: Experts and dense feed-forwards.
        itemsize: Bytes of a plain number.
    """

    attention: Format
    feed_forward: Format
    itemsize: int = 2

    def attention_bytes(self, outputs: int, inputs: int) -> int:
        """Return the bytes of a projection of attention, [outputs, inputs]."""
        return matrix_bytes(self.attention, outputs, inputs, self.itemsize)

    def feed_forward_bytes(self, outputs: int, inputs: int) -> int:
        """Return the bytes of a feed-forward's matrix, [outputs, inputs]."""
        return matrix_bytes(self.feed_forward, outputs, inputs, self.itemsize)


def matrix_bytes(kind: Format, outputs: int, inputs: int, itemsize: int) -> int:
    """Return the bytes of a matrix [outputs, inputs].

    Args:
        kind: `plain`; `int4` with a bf16 scale for each group of inputs; `fp8` with an fp32 scale for each output.
        outputs: Its rows.
        inputs: Its columns.
        itemsize: Bytes of a number where it is plain.

    Raises:
        InvalidRequest: The inputs cannot be divided into groups for int4.
    """
    if kind == "plain":
        return outputs * inputs * itemsize
    if kind == "fp8":
        return outputs * (inputs + _FP8_SCALE)
    group = next((size for size in _GROUPS if inputs % size == 0), None)
    if group is None:
        raise InvalidRequest(
            f"int4 packs inputs in groups of {_GROUPS[-1]}; this model has matrices with {inputs}. Use fp8 or none."
        )
    return outputs * (inputs // 2 + inputs // group * _INT4_SCALE)
