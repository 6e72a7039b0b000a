"""Weight formats, dtypes and step sizes, written down once for the runtime and the planner; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from llama4sdk.errors import InvalidRequest

WeightFormat = Literal["int4", "fp8"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
CacheType = Literal["auto", "fp8"]
HeadType = Literal["auto", "fp8"]
Speculation = Literal["prompt_lookup"]
MatrixFormat = Literal["plain", "int4", "fp8"]

INT4_GROUPS: Final = (128, 64, 32)  # inputs that share a scale; the largest that divides a matrix is taken
INT4_SCALE_BYTES: Final = 2  # bf16, one for each group and output
FP8_SCALE_BYTES: Final = 4  # fp32, one for each output

DTYPE_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
STORED_NAMES: Final = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}  # safetensors' names of plain dtypes
STORED_E4M3: Final = "F8_E4M3"
STORED_BYTES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2}  # others take one
CACHE_BYTES: Final = {"bf16": 2, "fp16": 2, "fp32": 4, "fp8": 1}
CACHE_OF_DTYPE: Final = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}

MOST_STEP_TOKENS: Final = 131_072  # beyond, 32-bit offsets into a step's activations wrap in the kernels
MOST_DRAFTED: Final = 7  # tokens that a sequence's step computes behind its last one, to be confirmed
SPECULATING_STREAMS: Final = 4  # with more sequences, their own tokens fill a step
_STEP_TOKENS: Final = {"cpu": 512, "cuda": 8192}  # enough to keep the device busy; fewer beside streams


def usual_step_tokens(device: str) -> int:
    """Return the most tokens of a step on a kind of device, `cpu` or `cuda`."""
    return _STEP_TOKENS.get(device, _STEP_TOKENS["cpu"])


def int4_group(inputs: int) -> int:
    """Return the largest size of int4 group that divides a matrix's inputs.

    Raises:
        InvalidRequest: None does.
    """
    for group in INT4_GROUPS:
        if inputs % group == 0:
            return group
    smallest = INT4_GROUPS[-1]
    raise InvalidRequest(
        f"int4 packs inputs in groups of {smallest}; this model has matrices with {inputs}. Use fp8 or none."
    )


def matrix_bytes(weight_format: MatrixFormat, outputs: int, inputs: int, itemsize: int) -> int:
    """Return the bytes of a matrix [outputs, inputs].

    Args:
        weight_format: `plain`; `int4` with a scale for each group of inputs; `fp8` with a scale for each output.
        outputs: Its rows.
        inputs: Its columns.
        itemsize: Bytes of a plain number.

    Raises:
        InvalidRequest: The inputs cannot be divided into int4 groups.
    """
    if weight_format == "plain":
        return outputs * inputs * itemsize
    if weight_format == "fp8":
        return outputs * (inputs + FP8_SCALE_BYTES)
    return outputs * (inputs // 2 + inputs // int4_group(inputs) * INT4_SCALE_BYTES)


@dataclass(frozen=True, slots=True)
class Storage:
    """The weight format of each kind of matrix.

    Router, norms, embedding and image encoder are always plain.

    Args:
        attention: Projections of attention.
        feed_forward: Experts and dense feed-forwards.
        itemsize: Bytes of a plain number.
        head: The output head.
    """

    attention: MatrixFormat
    feed_forward: MatrixFormat
    itemsize: int = 2
    head: MatrixFormat = "plain"

    def attention_bytes(self, outputs: int, inputs: int) -> int:
        """Return the bytes of a projection of attention, [outputs, inputs]."""
        return matrix_bytes(self.attention, outputs, inputs, self.itemsize)

    def head_bytes(self, outputs: int, inputs: int) -> int:
        """Return the bytes of the output head, [outputs, inputs]."""
        return matrix_bytes(self.head, outputs, inputs, self.itemsize)

    def feed_forward_bytes(self, outputs: int, inputs: int) -> int:
        """Return the bytes of a feed-forward's matrix, [outputs, inputs]."""
        return matrix_bytes(self.feed_forward, outputs, inputs, self.itemsize)
