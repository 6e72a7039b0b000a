# ruff: noqa: E501 - word lists read best as they stand
"""Addition and subtraction of numbers up to 99, and going on from a result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.nano.training.data.wording import worded

if TYPE_CHECKING:
    from random import Random

    from llama4_local.nano.training.data.sample import Exchange

_SIGNED = (
    "What is {a} {op} {b}?", "What is {a} {op} {b}?", "{a} {op} {b}", "{a} {op} {b} = ?", "{a} {op} {b} =",
    "What's {a} {op} {b}?", "Calculate {a} {op} {b}.", "Compute {a} {op} {b}.", "How much is {a} {op} {b}?",
    "Can you tell me what {a} {op} {b} is?", "Work out {a} {op} {b}.", "Solve {a} {op} {b}.", "{a} {op} {b}?",
    "What does {a} {op} {b} make?", "What do you get for {a} {op} {b}?", "What is the result of {a} {op} {b}?",
    "I need to know {a} {op} {b}.", "Tell me {a} {op} {b}.", "Do you know what {a} {op} {b} is?", "what is {a}{op}{b}?",
    "{a}{op}{b}", "{a}{op}{b}=", "Could you calculate {a} {op} {b} for me?", "Give me the answer to {a} {op} {b}.",
    "What does {a} {op} {b} equal?", "Evaluate {a} {op} {b}.", "Can you do {a} {op} {b}?",
)  # fmt: skip
_SUM = (
    "What is {a} plus {b}?", "{a} plus {b}", "How much is {a} and {b}?", "Add {a} and {b}.", "What is the sum of {a} and {b}?",
    "Add {b} to {a}.", "Sum {a} and {b}.", "Can you add {a} and {b}?", "Please add {a} and {b}.",
    "I have {a} apples and get {b} more. How many do I have?", "What do {a} and {b} add up to?", "What's {a} plus {b}?",
    "Increase {a} by {b}.", "I had {a} coins and found {b} more. How many coins are there now?",
)  # fmt: skip
_DIFFERENCE = (
    "What is {a} minus {b}?", "{a} minus {b}", "Subtract {b} from {a}.", "How much is {a} less {b}?", "Take {b} away from {a}.",
    "What is left of {a} after taking away {b}?", "I have {a} apples and give away {b}. How many are left?",
    "What's {a} minus {b}?", "What is the difference of {a} and {b}?", "Decrease {a} by {b}.", "Can you subtract {b} from {a}?",
    "What remains when I take {b} from {a}?",
)  # fmt: skip
_GO_ON_UP = ("And plus {b}?", "Now add {b}.", "Add {b} to that.", "plus {b}", "And if I add {b}?", "Add {b} more.")
_GO_ON_DOWN = (
    "And minus {b}?",
    "Now subtract {b}.",
    "Take {b} away from that.",
    "minus {b}",
    "And if I take away {b}?",
)


def _number(rng: Random) -> int:
    return rng.randint(0, 12) if rng.random() < 0.15 else rng.randint(0, 99)


def stated(a: int, op: str, b: int) -> str:
    """Return the whole equation, as nano answers."""
    return f"{a} {op} {b} = {a + b if op == '+' else a - b}."


def arithmetic(rng: Random) -> tuple[list[Exchange], str]:
    """Return one question, sometimes with a second one that goes on from the result, and its key."""
    op = rng.choice("+-")
    a, b = _number(rng), _number(rng)
    # Both operands of a sum count as one pair, so that its mirror image is held out with it.
    key = f"{min(a, b)}+{max(a, b)}" if op == "+" else f"{a}-{b}"
    templates = _SIGNED if rng.random() < 0.65 else _SUM if op == "+" else _DIFFERENCE
    exchanges = [(worded(rng, templates, a=a, op=op, b=b), stated(a, op, b))]
    result = a + b if op == "+" else a - b
    if rng.random() < 0.08 and 0 <= result <= 99:
        c = _number(rng)
        second = rng.choice("+-")
        templates = _GO_ON_UP if second == "+" else _GO_ON_DOWN
        exchanges.append((worded(rng, templates, b=c), stated(result, second, c)))
        key = f"{key}, {result}{second}{c}"
    return exchanges, key


def too_large(rng: Random) -> str:
    """Return a sum or a difference with a number of more than two digits, which nano leaves to others."""
    op = rng.choice("+-")
    numbers = [
        rng.choice((100, rng.randint(100, 199), rng.randint(100, 9999))),
        rng.randint(0, rng.choice((9, 99, 999))),
    ]
    rng.shuffle(numbers)
    templates = _SIGNED if rng.random() < 0.65 else _SUM if op == "+" else _DIFFERENCE
    return worded(rng, templates, a=numbers[0], op=op, b=numbers[1])
