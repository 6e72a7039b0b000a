"""The longest loop of a kernel's machine code that holds no other loop: its instructions, and how it waits."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llama4_local.ops.kernels.aot.machine_code import MachineCodeError, dump, instructions

_JUMP = re.compile(r"BRA(?:\.\w+)* .*?0x([0-9a-f]+)")


@dataclass(frozen=True, slots=True)
class MainLoop:
    """The longest innermost loop of a kernel.

    Args:
        instructions: Of one pass, for each warp.
        copies_in_flight: Groups of copies to shared memory that may still be under way at the loop's wait for them;
            0 where it awaits all, None where it has no such wait.
        exchanges: Stores to shared memory, by which warps exchange registers.
        slow_conversions: Conversions between types that run at a quarter of the usual rate.
    """

    instructions: int
    copies_in_flight: int | None
    exchanges: int
    slow_conversions: int


def main_loop(cubin: bytes) -> MainLoop:
    """Return the longest loop of a cubin that holds no other loop.

    Raises:
        MachineCodeError: The kernel has no loop.
    """
    code = instructions(dump(cubin, "--dump-sass"))
    places = {address: index for index, (address, _) in enumerate(code)}
    loops = [
        (places[int(jump[1], 16)], index)
        for index, (address, text) in enumerate(code)
        if (jump := _JUMP.search(text)) and int(jump[1], 16) < address
    ]
    innermost = [
        (first, last) for first, last in loops if not any(first <= start and end < last for start, end in loops)
    ]
    if not innermost:
        raise MachineCodeError("the kernel's machine code has no loop")
    first, last = max(innermost, key=lambda loop: loop[1] - loop[0])
    body = [line for _, line in code[first : last + 1]]
    waits = [
        int(match[1], 16) for match in (re.search(r"DEPBAR\.LE SB0, 0x([0-9a-f]+)", line) for line in body) if match
    ]
    return MainLoop(len(body), min(waits) if waits else None, _count(r"\bSTS\b", body), _count(r"\bF2F\b", body))


def _count(pattern: str, body: list[str]) -> int:
    return sum(bool(re.search(pattern, line)) for line in body)
