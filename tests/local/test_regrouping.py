"""int4 words of compressed-tensors become the runtime's own bytes, integer for integer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.base import unpack_from_int32

from llama4_local.checkpoint.headers import StoredTensor
from llama4_local.checkpoint.pack_quantized import read_int4
from llama4_local.checkpoint.reader import TensorReader


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("ordered", [False, True])
def test_words_are_regrouped_integer_for_integer(group: int, ordered: bool):
    source = torch.Generator().manual_seed(4)
    words = torch.randint(-(2**31), 2**31 - 1, (300, 32), dtype=torch.int32, generator=source)
    tensors = {"m_packed": words, "m_scale": torch.ones(300, 256 // group)}
    groups = torch.arange(256, dtype=torch.int32) // group
    if ordered:
        groups = tensors["m_g_idx"] = groups[torch.randperm(256, generator=source)]
    matrix = read_int4(Lent(tensors), ["m"], "cpu", None)
    assert torch.equal(matrix.dequantize(), unpack_from_int32(words, 4, words.new_empty((300, 256)).shape).float())


class Lent(TensorReader):
    """Tensors that lie in memory."""

    def __init__(self, own: dict[str, torch.Tensor]) -> None:
        super().__init__({n: StoredTensor(n, Path(), "I32", tuple(t.shape)) for n, t in own.items()})
        self._own = own

    def lend(self, name: str, index: int | None = None) -> torch.Tensor:
        return self._own[name]
