"""Properties of a compiled kernel's machine code, and the rules that it must keep.

They are read from the cubin with the tools in Triton's wheel; no GPU is involved.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from llama4sdk.errors import BackendMissing, LlamaError

if TYPE_CHECKING:
    from collections.abc import Sequence

SHARED_LIMIT = 227 * 1024  # bytes of shared memory that a program on Hopper may have

_INSTRUCTION = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(.*?) ;")

# Kernels whose loads are a few words for each row, which cannot be wide.
_SMALL_LOADS = {"route", "dispatch", "route_and_dispatch", "settle", "uniforms", "draw"}


class MachineCodeError(LlamaError):
    """Compiled kernels break the rules of `MachineCode.problems`; the message lists each rule and kernel."""


@dataclass(frozen=True, slots=True)
class MachineCode:
    """One compiled kernel.

    Args:
        registers: Registers of a thread.
        stack: Bytes of a thread's stack frame, where spilled registers are.
        shared: Bytes of shared memory of a program.
        matrix: Instructions of Hopper's matrix units (HGMMA, for e4m3 QGMMA).
        slow_matrix: Instructions of the older units (HMMA, IMMA).
        local: Loads from and stores to local memory.
        wide_loads: Global loads of 16 bytes per thread.
        unordered: What an arrival's order in memory lacks, see `arrival_faults`.
    """

    registers: int
    stack: int
    shared: int
    matrix: int
    slow_matrix: int
    local: int
    wide_loads: int
    unordered: tuple[str, ...] = ()

    def problems(self, name: str, *, matmul: bool) -> list[str]:
        """Return the rules that a kernel's machine code breaks, one sentence each."""
        slow = self.slow_matrix if matmul else 0
        rules = {
            f"spills: {self.stack} bytes of stack, {self.local} local accesses": not (self.stack or self.local),
            f"{self.shared} bytes of shared memory are more than {SHARED_LIMIT}": self.shared <= SHARED_LIMIT,
            "no HGMMA: the product does not run on Hopper's matrix units": bool(self.matrix) or not matmul,
            f"{slow} HMMA: part of the product runs on the older matrix units": not slow,
            "no 16-byte global load": bool(self.wide_loads) or name in _SMALL_LOADS,
        }
        return [problem for problem, kept in rules.items() if not kept] + list(self.unordered)


def occupancy(code: MachineCode, warps: int) -> int:
    """Return how many programs are resident on one of Hopper's multiprocessors (CUDA C++ guide, capability 9.0)."""
    per_warp = -(-code.registers * 32 // 256) * 256  # registers are allocated in blocks of 256
    return min(65536 // (per_warp * warps), 64 // warps, 32, 233_472 // (code.shared + 1024))


def inspect(cubin: bytes, shared: int) -> MachineCode:
    """Read a cubin's resources and instructions.

    Args:
        cubin: The compiled kernel.
        shared: Bytes of shared memory that a launch asks for.
    """
    registers, stack = resources(cubin)
    sass = dump(cubin, "--dump-sass")

    def count(pattern: str) -> int:
        return len(re.findall(pattern, sass))

    return MachineCode(
        registers=registers,
        stack=stack,
        shared=shared,
        matrix=count(r"\b[HQ]GMMA\b"),
        slow_matrix=count(r"\b[HIQ]MMA\b"),
        local=count(r"\b(?:LDL|STL)\b"),
        wide_loads=count(r"\bLDG(?:STS)?\.\S*\b128\b") + count(r"\bUTMALDG\b"),
        unordered=arrival_faults([text for _, text in instructions(sass)]),
    )


def instructions(sass: str) -> list[tuple[int, str]]:
    """Return address and text of each instruction that cuobjdump prints."""
    return [(int(match[1], 16), match[2]) for match in map(_INSTRUCTION.match, sass.splitlines()) if match]


def arrival_faults(code: Sequence[str]) -> tuple[str, ...]:
    """Return what is missing around each atomic addition by which a program arrives, see `kernels/arrivals.py`.

    Before it: a barrier behind the program's last stores, and a fence for the whole GPU. Behind it: the L1 cache is
    dropped, and a barrier holds the other threads back, before anything is loaded.
    """
    faults: list[str] = []
    for place, text in enumerate(code):
        if not re.search(r"\bATOMG?\b", text):
            continue
        stored = _last(code[:place], r"\bSTG\b")
        barrier, fence = _last(code[:place], r"\bBAR\b"), _last(code[:place], r"\bMEMBAR\.\S*\b(?:GPU|SYS)\b")
        loaded = _first(code[place:], r"\bLDG")
        dropped, held = _first(code[place:], r"\bCCTL\.IVALL\b"), _first(code[place:], r"\bBAR\b")
        kept = {
            "no barrier between a program's stores and its arrival": stored < barrier < fence,
            "no fence before an arrival": barrier < fence,
            "an arrival does not drop the L1 cache before the next load": dropped < min(held, loaded),
            "no barrier between an arrival and the next load": held < loaded,
        }
        faults += [fault for fault, right in kept.items() if not right]
    return tuple(faults)


def _last(code: Sequence[str], pattern: str) -> int:
    return max((place for place, text in enumerate(code) if re.search(pattern, text)), default=-1)


def _first(code: Sequence[str], pattern: str) -> int:
    return next((place for place, text in enumerate(code) if re.search(pattern, text)), len(code))


def resources(cubin: bytes) -> tuple[int, int]:
    """Return a cubin's registers of a thread, and the bytes of its stack frame."""
    usage = dump(cubin, "--dump-resource-usage")
    match = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if match is None:
        raise MachineCodeError(f"cuobjdump printed no registers: {usage[:200]!r}")
    return int(match[1]), int(match[2])


def dump(cubin: bytes, section: str) -> str:
    """Return what cuobjdump prints of a cubin for an option, such as `--dump-sass`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        return _run("cuobjdump", section, str(path))


def _run(tool: str, *arguments: str) -> str:
    done = subprocess.run([str(_tool(tool)), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise MachineCodeError(f"{tool} failed: {done.stderr.strip()[:500]}")
    return done.stdout


def _tool(name: str) -> Path:
    spec = find_spec("triton")
    folders: Sequence[str] = (spec.submodule_search_locations or ()) if spec else ()
    for folder in folders:
        path = Path(folder) / "backends" / "nvidia" / "bin" / name
        if path.exists():
            return path
    raise BackendMissing(f"{name} comes with Triton's wheel, which is not installed: pip install triton")
