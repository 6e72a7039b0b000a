"""Bytes of the weights of a checkpoint that is published quantized, from what its files' headers say.

Publishers differ in what they leave in bf16, so that only the files themselves tell how large such a network is.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import TYPE_CHECKING

from llama4_local.checkpoint.cuts import cut_of, cut_shape, matrix_of, own_tensors
from llama4_local.config.formats import FP8_SCALE_BYTES, STORED_BYTES, STORED_E4M3
from llama4_local.config.share import WHOLE
from llama4_local.planning.network import WeightBytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llama4_local.checkpoint.headers import StoredTensor
    from llama4_local.config.share import Share

_PARTS = (  # the first of these words in a tensor's name says where it belongs
    ("vision_model.", "vision"),
    ("multi_modal_projector.", "vision"),
    ("embed_tokens.", "embedding"),
    ("lm_head.", "head"),
    ("router.", "routers"),
    ("norm", "routers"),
    ("shared_expert.", "shared"),
    (".experts.", "experts"),
    (".self_attn.", "attention"),
)


def stored_weight_bytes(
    tensors: Mapping[str, StoredTensor], itemsize: int, share: Share = WHOLE, experts: int = 0
) -> WeightBytes:
    """Return the bytes that a checkpoint's network takes once it is loaded as it is, or one rank's share of it.

    Args:
        tensors: Those of its files, as `find_tensors` returns them.
        itemsize: Bytes of a number that is not in FP8.
        share: The rank.
        experts: Routed experts of a layer, where the rank has some of them.
    """
    parts: Counter[str] = Counter()
    own = own_tensors(tensors, experts, share)
    for name, tensor in own.items():
        base, part = matrix_of(name)
        cut = cut_shape(tensor, cut_of(name, own, share))
        if part == "packed":
            parts[_part(name)] += 4 * prod(cut.shape)
        elif part == "scale" and f"{base}_packed" in own:
            parts[_part(name)] += STORED_BYTES.get(tensor.dtype, 1) * prod(cut.shape)
        elif not part:
            parts[_part(name)] += _bytes(cut, itemsize)
    names = ("attention", "experts", "shared", "dense", "routers", "embedding", "head", "vision")
    return WeightBytes(**{name: parts[name] for name in names})


def _part(name: str) -> str:
    return next((part for word, part in _PARTS if word in name), "dense")


def _bytes(tensor: StoredTensor, itemsize: int) -> int:
    count = 1
    for size in tensor.shape:
        count *= size
    if tensor.dtype != STORED_E4M3:
        return count * itemsize
    inputs = tensor.shape[-2] if len(tensor.shape) == 3 else tensor.shape[-1]  # fused experts are [experts, in, out]
    return count + count // inputs * FP8_SCALE_BYTES
