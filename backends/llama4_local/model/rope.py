"""Rotary angles: tables of cosine and sine made once, from which each step takes its rows.

Tables are computed in fp64 and kept in fp32. Where attention is chunked, a query never meets a key of
another chunk and rotary scores depend on distances only, so the position within the chunk does as well
as the position itself: a table of one chunk serves any position, without the angle error that fp32 has
at positions in the millions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from llama4_local.config.model import RopeScaling, TextConfig, VisionConfig


@dataclass(frozen=True, slots=True)
class TextRope:
    """Where a decoder's rotary angles come from.

    Args:
        table: [chunk, head_dim / 2, 2], cosine and sine at each position of a chunk; None without chunks.
        frequencies: [head_dim / 2], fp64, radians per position.
    """

    table: Tensor | None
    frequencies: Tensor

    def rows(self, positions: Tensor) -> Tensor:
        """Return cosine and sine for `positions` [tokens]: [tokens, head_dim / 2, 2], fp32."""
        if self.table is None:
            return _cosine_sine(positions[:, None] * self.frequencies)
        return self.table[positions % self.table.shape[0]]


def text_rope(text: TextConfig, device: str | torch.device = "cpu") -> TextRope:
    """Make a decoder's rotary tables."""
    frequencies = text_frequencies(text).to(device)
    if text.chunk is None:
        return TextRope(None, frequencies)
    positions = torch.arange(text.chunk, device=device)
    return TextRope(_cosine_sine(positions[:, None] * frequencies), frequencies)


def text_frequencies(text: TextConfig) -> Tensor:
    """Return radians per position for each pair, [head_dim / 2], fp64.

    `theta^(-2i / head_dim)` (Su et al., RoFormer), with the long wavelengths stretched where the config
    asks for it.
    """
    exponents = torch.arange(0, text.head_dim, 2, dtype=torch.float64) / text.head_dim
    frequencies = text.rope_theta**-exponents
    return frequencies if text.rope_scaling is None else _stretch(frequencies, text.rope_scaling)


def vision_rope(vision: VisionConfig, device: str | torch.device = "cpu") -> Tensor:
    """Return cosine and sine for a tile's patches, [patches + 1, head_dim / 2, 2], fp32.

    The first half of the pairs turns with the column + 1, the second half with the row + 1; the class
    token, which comes last, is not turned.
    """
    quarter = torch.arange(0, vision.head_dim // 2, 2, dtype=torch.float64)
    frequencies = vision.rope_theta ** -(quarter / (vision.head_dim // 2))
    places = torch.arange(vision.patches)
    columns, rows = places % vision.grid + 1, places // vision.grid + 1
    angles = torch.cat([columns[:, None] * frequencies, rows[:, None] * frequencies], dim=1)
    still = torch.zeros(1, angles.shape[1], dtype=torch.float64)
    return _cosine_sine(torch.cat([angles, still])).to(device)


def _stretch(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    wavelengths = 2 * math.pi / frequencies
    longest = scaling.original_max_positions / scaling.low_freq_factor
    shortest = scaling.original_max_positions / scaling.high_freq_factor
    spread = scaling.high_freq_factor - scaling.low_freq_factor
    kept = (scaling.original_max_positions / wavelengths - scaling.low_freq_factor) / (spread or 1.0)
    blended = (1 - kept) * frequencies / scaling.factor + kept * frequencies
    stretched = torch.where(wavelengths > longest, frequencies / scaling.factor, blended)
    return torch.where((wavelengths < shortest) & (wavelengths <= longest), frequencies, stretched)


def _cosine_sine(angles: Tensor) -> Tensor:
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float()
