"""The kernels' inline assembly, evaluated in PyTorch: the interpreter has none and takes another path."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton comes for Linux only")

from llama4_local.ops.kernels import arithmetic

Operation = Callable[..., Tensor]
WORD = 0xFFFFFFFF


def three_way(a: Tensor, b: Tensor, c: Tensor, table: Tensor) -> Tensor:
    """lop3: bit t of the table is the result where the bits of a, b and c make t (PTX ISA, lop3)."""
    result = torch.zeros_like(a)
    for t in range(8):
        if int(table) >> t & 1:
            result |= (a if t & 4 else ~a) & (b if t & 2 else ~b) & (c if t & 1 else ~c)
    return result & WORD


def halves(word: Tensor) -> Tensor:
    return torch.stack([word & 0xFFFF, word >> 16]).to(torch.uint16).view(torch.bfloat16)


def subtract_pairs(a: Tensor, b: Tensor) -> Tensor:
    low, high = (halves(a) - halves(b)).view(torch.uint16).long()
    return low | high << 16


def same(a: Tensor) -> Tensor:
    return a


OPERATIONS: dict[str, Operation] = {
    "shr.u32": torch.bitwise_right_shift,
    "mov.b32": same,
    "lop3.b32": three_way,
    "sub.rn.bf16x2": subtract_pairs,
}


def evaluated(assembly: str, word: Tensor, outputs: int) -> list[Tensor]:
    """Run straight-line PTX on every word at once; operands $0 … are outputs, the next is the input."""
    values: dict[str, Tensor] = {f"${outputs}": word}
    for instruction in filter(None, (one.strip() for one in assembly.strip("{}\n").split(";"))):
        name, rest = instruction.split(maxsplit=1)
        if name == ".reg":
            continue
        target, *operands = re.split(r",\s*", rest)
        read = [values[one] if one in values else torch.full_like(word, int(one, 0)) for one in operands]
        if name == "lop3.b32":
            read[3] = torch.tensor(int(operands[3], 0))
        values[target] = OPERATIONS[name](*read)
    return [values[f"${index}"] for index in range(outputs)]


def test_the_nibbles_of_all_words_minus_8() -> None:
    words = torch.arange(1 << 16)
    others = words.flip(0)
    results = evaluated(arithmetic.NIBBLES.value, words | others << 16, 4)
    both = torch.stack([words, others])
    for place, pairs in enumerate(results):
        assert torch.equal(halves(pairs).float(), ((both >> 4 * place) & 0xF).float() - 8)


def test_a_wrong_mask_or_base_or_shift_changes_the_result() -> None:
    word = torch.tensor([0x95A73EC4])
    right = evaluated(arithmetic.NIBBLES.value, word, 4)
    for there, wrong in (("0x000F000F", "0x0007000F"), ("0x43084308", "0x43074308"), (", 8;", ", 7;")):
        assert there in arithmetic.NIBBLES.value
        results = evaluated(arithmetic.NIBBLES.value.replace(there, wrong), word, 4)
        assert any(not torch.equal(one, other) for one, other in zip(results, right, strict=True))
