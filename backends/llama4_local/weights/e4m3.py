"""Numbers in e4m3 as a cache holds them: rounded, read back and moved, alike in every version of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llama4_local.weights.quantized import E4M3_LARGEST, a_256th

if TYPE_CHECKING:
    from torch import Tensor

_NARROW = torch.float8_e4m3fn
_NAN = 0x7F  # all bits but the sign, which together say that it is not a number


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return x in a type; in e4m3, where torch may make NaN of what is too large, that becomes ±448."""
    return x.clamp(-E4M3_LARGEST, E4M3_LARGEST).to(dtype) if dtype == _NARROW else x.to(dtype)


def widened(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return x in a wider type; as it is where that is its own. What is not a number in e4m3 stays so."""
    if x.dtype != _NARROW or x.device.type != "cpu":
        return x.to(dtype)
    values = a_256th(x).mul_(256)  # exact in fp16, and in all that is wider
    magnitudes = words(x).bitwise_and(_NAN)
    if int(magnitudes.max()) == _NAN:
        values.masked_fill_(magnitudes == _NAN, torch.nan)
    return values.float().to(dtype)  # from fp16 to bf16 at once torch takes five times as long


def words(x: Tensor) -> Tensor:
    """Return the same memory in a type that torch can move about: bytes for e4m3, else x itself."""
    return x.view(torch.uint8) if x.dtype == _NARROW else x
