"""Packed weight matrices: what a quantized network carries in place of tensors.

Each stands for a matrix [..., out, in], any leading axes being experts. Kernels read them as they are;
`dequantize` says what they mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llama4sdk.errors import InvalidRequest

E4M3_LARGEST = 448.0  # Micikevicius et al., "FP8 formats for deep learning", 2022
LEAST_SCALE = 1e-12  # rows of zeros would divide by zero


@dataclass(frozen=True, slots=True)
class Int4Matrix:
    """Integers from -8 to 7, each times its group's scale.

    Within a group of G inputs, byte i holds input i in its low nibble and input i + G/2 in its high one, both
    plus 8: a kernel gets two ready halves of the group with one mask and one shift.

    Args:
        packed: [..., out, in / 2], uint8.
        scales: [..., in / G, out], bf16; may be negative.
    """

    packed: Tensor
    scales: Tensor

    def __post_init__(self) -> None:
        out, half = self.packed.shape[-2:]
        groups = self.scales.shape[-2]
        if self.scales.shape[-1] != out or groups == 0 or (2 * half) % groups:
            raise InvalidRequest(
                f"int4 scales {tuple(self.scales.shape)} do not fit bytes of shape {tuple(self.packed.shape)}"
            )

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return 2 * self.packed.shape[-1] // self.scales.shape[-2]

    @property
    def shape(self) -> torch.Size:
        """Shape of the matrix it stands for, [..., out, in]."""
        return torch.Size((*self.packed.shape[:-1], 2 * self.packed.shape[-1]))

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return self.packed.nbytes + self.scales.nbytes

    def __getitem__(self, index: int) -> Int4Matrix:
        return Int4Matrix(self.packed[index], self.scales[index])

    def to(self, device: str | torch.device) -> Int4Matrix:
        """Return the same matrix on another device."""
        return Int4Matrix(self.packed.to(device), self.scales.to(device))

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the matrix, [..., out, in]."""
        halves = self.packed.unflatten(-1, (-1, self.group // 2))
        integers = torch.cat([halves & 0xF, halves >> 4], dim=-1).float() - 8
        return (integers * self.scales.float().transpose(-1, -2)[..., None]).flatten(-2).to(dtype)


@dataclass(frozen=True, slots=True)
class Fp8Matrix:
    """Numbers in e4m3, each row times its scale.

    Args:
        values: [..., out, in], float8_e4m3fn.
        scales: [..., out], fp32.
        bound: Largest magnitude of an activation that its scale is made for; larger ones are cut off. None
            for no bound.
    """

    values: Tensor
    scales: Tensor
    bound: float | None = None

    def __post_init__(self) -> None:
        if self.scales.shape != self.values.shape[:-1]:
            raise InvalidRequest(
                f"FP8 scales {tuple(self.scales.shape)} do not fit values of shape {tuple(self.values.shape)}"
            )

    @property
    def shape(self) -> torch.Size:
        """Shape of the matrix it stands for, [..., out, in]."""
        return self.values.shape

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return self.values.nbytes + self.scales.nbytes

    def __getitem__(self, index: int) -> Fp8Matrix:
        return Fp8Matrix(self.values[index], self.scales[index], self.bound)

    def to(self, device: str | torch.device) -> Fp8Matrix:
        """Return the same matrix on another device."""
        return Fp8Matrix(self.values.to(device), self.scales.to(device), self.bound)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the matrix, [..., out, in]."""
        return (self.values.float() * self.scales[..., None]).to(dtype)


Packed = Int4Matrix | Fp8Matrix
Matrix = Tensor | Packed
