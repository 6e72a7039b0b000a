# ruff: noqa: E501 - word lists read best as they stand
"""Saying something again word by word, and counting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.nano.training.data.identity import identity, outside_question
from llama4_local.nano.training.data.wording import worded
from llama4_local.nano.training.data.words import any_name, any_word, phrase, random_word

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from llama4_local.nano.training.data.sample import Exchange

_REPEAT = (
    "Repeat: {text}", "Say: {text}", "Repeat after me: {text}", 'Repeat "{text}".', 'Say "{text}".', "Repeat the words: {text}",
    "Echo: {text}", 'Please repeat: "{text}"', "Say exactly this: {text}", 'Write "{text}".',
)  # fmt: skip
_COUNT = (
    "Count from {a} to {b}.", "Count from {a} to {b}", "Can you count from {a} to {b}?", "Please count from {a} to {b}.",
    "List the numbers from {a} to {b}.", "Say the numbers from {a} to {b}.", "Write the numbers {a} to {b}.", "Count {a} to {b}.",
    "Give me all numbers from {a} to {b}.", "Start at {a} and count to {b}.",
)  # fmt: skip
_COUNT_TO = ("Count to {b}.", "Can you count to {b}?", "Please count up to {b}.", "Count up to {b}.")
_HELLOS = ("Hello", "Hi", "hello", "Dear", "Thank you,", "Good morning", "Well,", "Oh,", "hey")
_COUNT_DOWN = ("Count down from {a} to {b}.", "Count backwards from {a} to {b}.", "Count from {a} down to {b}.")


def _greeted(rng: Random) -> str:
    return f"{rng.choice(_HELLOS)} {rng.choice((any_name(rng), any_word(rng)))}, {outside_question(rng).strip()}"


_SAID: tuple[Callable[[Random], str], ...] = (
    _greeted,
    lambda rng: outside_question(rng).strip(),
    lambda rng: identity(rng)[0][0][0].strip(),
)


def copying(rng: Random) -> tuple[list[Exchange], str]:
    """Return a request to repeat words or to count, with its answer and its key."""
    if rng.random() < 0.6:
        return _repeated(rng)
    if rng.random() < 0.2:
        b = rng.randint(2, 40)
        return [(worded(rng, _COUNT_TO, b=b), _numbers(1, b, 1))], f"1..{b}"
    a = rng.randint(0, 90)
    b = min(99, a + rng.randint(2, 30))
    if rng.random() < 0.3:
        return [(worded(rng, _COUNT_DOWN, a=b, b=a), _numbers(b, a, -1))], f"{b}..{a}"
    return [(worded(rng, _COUNT, a=a, b=b), _numbers(a, b, 1))], f"{a}..{b}"


def _numbers(first: int, last: int, step: int) -> str:
    return f"{', '.join(str(number) for number in range(first, last + step, step))}."


def _repeated(rng: Random) -> tuple[list[Exchange], str]:
    if rng.random() < 0.2:  # what people say, commas and all
        words = rng.choice(_SAID)(rng)
        return [(rng.choice(_REPEAT).format(text=words), words)], words
    if rng.random() < 0.4:  # long ones teach copying fastest
        words = phrase(rng, 6, 20)
    else:
        words = (
            phrase(rng, 1, 6) if rng.random() < 0.6 else " ".join(random_word(rng) for _ in range(rng.randint(1, 4)))
        )
    if rng.random() < 0.3:
        words = words.capitalize()
    if rng.random() < 0.2:
        words = f"{any_name(rng)} {words}"
    if rng.random() < 0.15:
        words = f"{words} {rng.randint(0, 999)}"
    return [(rng.choice(_REPEAT).format(text=words), words)], words
