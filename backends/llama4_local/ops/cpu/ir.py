"""A writer of functions in LLVM's intermediate language.

Values have Python's operators, variables are slots on the stack (LLVM turns them into registers), and loops and
conditions are contexts, so that a kernel reads like the loop that it is.
"""

from __future__ import annotations

import struct
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

I1, I16, I32, I64, F32, PTR = "i1", "i16", "i32", "i64", "float", "ptr"
_INTEGERS = ("i1", "i16", "i32", "i64")


def vector(kind: str, width: int) -> str:
    """Return the type of `width` numbers of a type."""
    return f"<{width} x {kind}>"


def element(kind: str) -> str:
    """Return the type of a vector's numbers, or the type itself."""
    return kind.rstrip(">").split(" x ")[-1]


def width_of(kind: str) -> int:
    """Return how many numbers a type holds."""
    return int(kind[1:].split(" x ")[0]) if kind.startswith("<") else 1


@dataclass(frozen=True, slots=True)
class Value:
    """A number, vector or pointer; made once, never changed."""

    code: Function
    kind: str
    name: str

    def __add__(self, other: Value | float) -> Value:
        return self.code.binary("add", self, other)

    def __sub__(self, other: Value | float) -> Value:
        return self.code.binary("sub", self, other)

    def __mul__(self, other: Value | float) -> Value:
        return self.code.binary("mul", self, other)

    def __truediv__(self, other: Value | float) -> Value:
        return self.code.binary("div", self, other)

    def __floordiv__(self, other: Value | int) -> Value:
        return self.code.binary("div", self, other)

    def __lt__(self, other: Value | float) -> Value:
        return self.code.compare("slt", "olt", self, other)

    def __gt__(self, other: Value | float) -> Value:
        return self.code.compare("sgt", "ogt", self, other)

    def equals(self, other: Value | float) -> Value:
        """Return whether two numbers are equal, i1."""
        return self.code.compare("eq", "oeq", self, other)


@dataclass(frozen=True, slots=True)
class Slot:
    """A variable."""

    code: Function
    kind: str
    address: str

    def get(self) -> Value:
        """Return what it holds."""
        return self.code.let(self.kind, f"load {self.kind}, ptr {self.address}")

    def set(self, value: Value | float) -> None:
        """Let it hold another value."""
        self.code.do(f"store {self.kind} {self.code.constant(self.kind, value).name}, ptr {self.address}")


class Function:
    """A function that is being written.

    Args:
        name: Its symbol.
        arguments: The types of its arguments.
        returns: The type of its result.
    """

    def __init__(self, name: str, arguments: Sequence[str], returns: str = "void") -> None:
        self.name = name
        self.arguments = tuple(Value(self, kind, f"%a{place}") for place, kind in enumerate(arguments))
        self._returns = returns
        self._slots: list[str] = []
        self._lines: list[str] = []
        self._names = 0

    def text(self, *, internal: bool = False) -> str:
        """Return it whole.

        Args:
            internal: Whether it is called in its module only.
        """
        head = ", ".join(f"{each.kind} {each.name}" for each in self.arguments)
        linkage, attributes = ("internal ", " noinline") if internal else ("", "")
        start = f"define {linkage}{self._returns} @{self.name}({head}){attributes} {{\nentry:"
        return "\n".join((start, *self._slots, *self._lines, "}"))

    def do(self, line: str) -> None:
        """Write an instruction."""
        self._lines.append(f"  {line}")

    def let(self, kind: str, expression: str) -> Value:
        """Write an instruction that has a value."""
        self._names += 1
        self.do(f"%v{self._names} = {expression}")
        return Value(self, kind, f"%v{self._names}")

    def slot(self, kind: str, first: Value | float | None = None) -> Slot:
        """Return a variable."""
        self._names += 1
        self._slots.append(f"  %s{self._names} = alloca {kind}, align 64")
        made = Slot(self, kind, f"%s{self._names}")
        if first is not None:
            made.set(first)
        return made

    def room(self, kind: str, count: int) -> Value:
        """Return the address of `count` numbers on the stack."""
        return Value(self, PTR, self.slot(f"[{count} x {kind}]").address)

    def constant(self, kind: str, value: Value | float) -> Value:
        """Return a number as a value of a type; in a vector all are alike."""
        if isinstance(value, Value):
            return value
        inner = element(kind)
        one = str(int(value)) if inner in _INTEGERS else _exact(value)
        if kind == inner:
            return Value(self, kind, one)
        return Value(self, kind, f"<{', '.join([f'{inner} {one}'] * width_of(kind))}>")

    def constants(self, kind: str, values: Sequence[float]) -> Value:
        """Return a vector of numbers."""
        inner = element(kind)
        each = (str(int(value)) if inner in _INTEGERS else _exact(value) for value in values)
        return Value(self, kind, f"<{', '.join(f'{inner} {one}' for one in each)}>")

    def null(self) -> Value:
        """Return the address of nothing."""
        return Value(self, PTR, "null")

    def binary(self, name: str, left: Value, right: Value | float) -> Value:
        """Return a sum, difference, product or quotient."""
        whole = element(left.kind) in _INTEGERS
        operation = {"div": "sdiv"}.get(name, name) if whole else f"f{name}"
        return self.let(left.kind, f"{operation} {left.kind} {left.name}, {self.constant(left.kind, right).name}")

    def compare(self, whole: str, real: str, left: Value, right: Value | float) -> Value:
        """Return a comparison, i1 or a vector of them."""
        operation = f"icmp {whole}" if element(left.kind) in _INTEGERS else f"fcmp {real}"
        kind = I1 if left.kind == element(left.kind) else vector(I1, width_of(left.kind))
        return self.let(kind, f"{operation} {left.kind} {left.name}, {self.constant(left.kind, right).name}")

    def select(self, condition: Value, yes: Value, no: Value | float) -> Value:
        """Return one value or the other; with a vector of conditions number by number."""
        other = self.constant(yes.kind, no)
        return self.let(
            yes.kind, f"select {condition.kind} {condition.name}, {yes.kind} {yes.name}, {yes.kind} {other.name}"
        )

    def bits(self, operation: str, left: Value, right: Value | int) -> Value:
        """Return `and`, `or`, `xor`, `shl`, `lshr` or `ashr` of integers."""
        return self.let(left.kind, f"{operation} {left.kind} {left.name}, {self.constant(left.kind, right).name}")

    def cast(self, operation: str, value: Value, kind: str) -> Value:
        """Return a value as another type, for example by `sext`, `bitcast` or `fptosi`."""
        return self.let(kind, f"{operation} {value.kind} {value.name} to {kind}")

    def call(self, name: str, arguments: Sequence[Value], returns: str = "void") -> Value:
        """Call a function; its result has no meaning where it returns nothing."""
        call = f"call {returns} @{name}({', '.join(f'{each.kind} {each.name}' for each in arguments)})"
        if returns == "void":
            self.do(call)
            return Value(self, "void", "")
        return self.let(returns, call)

    def at(self, base: Value, index: Value | int, kind: str) -> Value:
        """Return the address of a number in an array of its type."""
        place = self.constant(I64, index)
        return self.let(PTR, f"getelementptr {kind}, ptr {base.name}, i64 {place.name}")

    def load(self, address: Value, kind: str, align: int) -> Value:
        """Return what lies at an address."""
        return self.let(kind, f"load {kind}, ptr {address.name}, align {align}")

    def store(self, value: Value, address: Value, align: int) -> None:
        """Write a value to an address."""
        self.do(f"store {value.kind} {value.name}, ptr {address.name}, align {align}")

    def shuffle(self, left: Value, places: Sequence[int]) -> Value:
        """Return the numbers of a vector at some places."""
        mask = ", ".join(f"i32 {place}" for place in places)
        kind = vector(element(left.kind), len(places))
        return self.let(
            kind, f"shufflevector {left.kind} {left.name}, {left.kind} poison, <{len(places)} x i32> <{mask}>"
        )

    def splat(self, value: Value, width: int) -> Value:
        """Return a vector whose numbers are one value."""
        kind = vector(value.kind, width)
        first = self.let(kind, f"insertelement {kind} poison, {value.kind} {value.name}, i32 0")
        return self.shuffle(first, [0] * width)

    def first(self, value: Value) -> Value:
        """Return the first number of a vector."""
        return self.let(element(value.kind), f"extractelement {value.kind} {value.name}, i32 0")

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """Return a · b + c, rounded once."""
        suffix = "f32" if a.kind == F32 else f"v{width_of(a.kind)}f32"
        return self.call(f"llvm.fma.{suffix}", (a, b, c), a.kind)

    @contextmanager
    def loop(self, first: Value | int, last: Value | int, step: Value | int = 1) -> Generator[Value]:
        """Do what is written within for each number from `first` up to `last`, without it."""
        index, end = self.slot(I64, self.constant(I64, first)), self.constant(I64, last)
        head, body, done = self._label(), self._label(), self._label()
        self.do(f"br label %{head}")
        self._mark(head)
        place = index.get()
        self.do(f"br i1 {(place < end).name}, label %{body}, label %{done}")
        self._mark(body)
        yield place
        index.set(place + step)
        self.do(f"br label %{head}")
        self._mark(done)

    @contextmanager
    def when(self, condition: Value) -> Generator[None]:
        """Do what is written within where a condition holds."""
        body, done = self._label(), self._label()
        self.do(f"br i1 {condition.name}, label %{body}, label %{done}")
        self._mark(body)
        yield
        self.do(f"br label %{done}")
        self._mark(done)

    def _label(self) -> str:
        self._names += 1
        return f"b{self._names}"

    def _mark(self, label: str) -> None:
        self._lines.append(f"{label}:")


def _exact(value: float) -> str:
    """Return an fp32 number as LLVM writes it: the hexadecimal digits of the same number in fp64."""
    single = struct.unpack("<f", struct.pack("<f", value))[0]
    return f"0x{struct.unpack('<Q', struct.pack('<d', single))[0]:016X}"
