"""A kernel for CPUs: it takes the address of its arguments, 64 bits each, and all threads run it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.ops.cpu.ir import F32, I1, I32, I64, PTR, Function
from llama4_local.ops.cpu.numbers import Array

if TYPE_CHECKING:
    from llama4_local.ops.cpu.ir import Value


class Kernel(Function):
    """A kernel that is being written.

    Args:
        name: Its symbol.
        narrow: Whether arrays are bf16.
    """

    def __init__(self, name: str, *, narrow: bool) -> None:
        super().__init__(name, [PTR])
        self.narrow = narrow
        self._read = 0

    def take_array(self) -> Array:
        """Return the next argument, numbers in the network's type."""
        return Array(self, self._next(PTR), self.narrow)

    def take_wide(self) -> Array:
        """Return the next argument, numbers in fp32."""
        return Array(self, self._next(PTR), narrow=False)

    def take_places(self) -> Value:
        """Return the next argument, the address of whole numbers."""
        return self._next(PTR)

    def take_count(self) -> Value:
        """Return the next argument, a whole number."""
        return self._next(I64)

    def take_number(self) -> Value:
        """Return the next argument, the bits of a number in fp32."""
        return self.cast("bitcast", self.cast("trunc", self._next(I64), I32), F32)

    def take_optional(self) -> tuple[Array, Value]:
        """Return the next argument, numbers in fp32, and whether there are any."""
        base = self._next(PTR)
        return Array(self, base, narrow=False), self.let(I1, f"icmp ne ptr {base.name}, null")

    def _next(self, kind: str) -> Value:
        self._read += 1
        return self.load(self.at(self.arguments[0], self._read - 1, I64), kind, 8)
