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
_SIGN_AND_NUMBER = 0xBF80 - 0x10000  # of fp16: the sign, four bits of the exponent, three of the mantissa


@dataclass(frozen=True, slots=True)
class Int4Matrix:
    """Integers from -8 to 7, each times its group's scale.

    All are stored plus 8. In groups of 64 or 128 the four quarters of a group lie one above the other: a word of
    16 bits, its lower byte first, holds input i of each quarter, the first quarter's lowest. Kernels take whole
    words and get four ready quarters by shifts and masks, two words at a time. Groups of 32, whose quarters are too
    narrow for the matrix units, hold input i in the low nibble of byte i and input i + 16 in its high one.

    Args:
        packed: [..., out, in / 2], uint8.
        scales: [..., in / G, out], bf16, or as a published checkpoint has them; may be negative.
        order: Where groups were formed in another order of the inputs (activation order, Frantar et al., "GPTQ",
            2022): [..., pieces, in], the input that each stored column belongs to, for each piece of the outputs.
        ends: The last output of each such piece, plus one.
    """

    packed: Tensor
    scales: Tensor
    order: Tensor | None = None
    ends: tuple[int, ...] = ()

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
        return self.packed.nbytes + self.scales.nbytes + (0 if self.order is None else self.order.nbytes)

    def __getitem__(self, index: int) -> Int4Matrix:
        order = None if self.order is None else self.order[index]
        return Int4Matrix(self.packed[index], self.scales[index], order, self.ends)

    def rows(self, start: int, stop: int) -> Int4Matrix:
        """Return some of its outputs, [..., stop - start, in]."""
        ends = tuple(min(max(end, start), stop) - start for end in self.ends)
        return Int4Matrix(self.packed[..., start:stop, :], self.scales[..., start:stop], self.order, ends)

    def to(self, device: str | torch.device) -> Int4Matrix:
        """Return the same matrix on another device."""
        order = None if self.order is None else self.order.to(device)
        return Int4Matrix(self.packed.to(device), self.scales.to(device), order, self.ends)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the matrix, [..., out, in]."""
        parts = parts_of(self.group)
        words = (self.packed.view(torch.int16) if parts == 4 else self.packed).unflatten(-1, (-1, self.group // parts))
        groups = words.new_empty((*words.shape[:-1], parts, words.shape[-1]), dtype=torch.float32)
        for part in range(parts):
            groups[..., part, :] = (words >> 4 * part) & 0xF
        scales = self.scales.float().transpose(-1, -2)[..., None]
        stored = groups.sub_(8).flatten(-2).mul_(scales).flatten(-2).to(dtype)
        return stored if self.order is None else self._in_order(stored, self.order)

    def _in_order(self, stored: Tensor, order: Tensor) -> Tensor:
        """Return columns put back to their inputs."""
        whole, start = torch.empty_like(stored), 0
        for piece, end in enumerate(self.ends):
            own = stored[..., start:end, :]
            index = order[..., piece, :].long()[..., None, :].expand(own.shape)
            whole[..., start:end, :].scatter_(-1, index, own)
            start = max(start, end)
        return whole


def parts_of(group: int) -> int:
    """Return how many parts of an int4 group lie one above the other; see `Int4Matrix`."""
    return 4 if group >= 64 else 2


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

    def rows(self, start: int, stop: int) -> Fp8Matrix:
        """Return some of its outputs, [..., stop - start, in]."""
        return Fp8Matrix(self.values[..., start:stop, :], self.scales[..., start:stop], self.bound)

    def to(self, device: str | torch.device) -> Fp8Matrix:
        """Return the same matrix on another device."""
        return Fp8Matrix(self.values.to(device), self.scales.to(device), self.bound)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the matrix, [..., out, in]; it must hold no NaN."""
        return a_256th(self.values).float().mul_((self.scales * 256)[..., None]).to(dtype)


def a_256th(values: Tensor) -> Tensor:
    """Return a 256th of numbers in e4m3, exact in fp16; they must hold no NaN.

    Their bits, moved to where fp16 has its own, say so much less: on a CPU ten times as fast as a conversion.
    """
    bits = values.view(torch.int8).to(torch.int16).bitwise_left_shift_(7).bitwise_and_(_SIGN_AND_NUMBER)
    return bits.view(torch.float16)


Packed = Int4Matrix | Fp8Matrix
Matrix = Tensor | Packed
