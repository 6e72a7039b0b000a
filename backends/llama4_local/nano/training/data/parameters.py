"""Parameters of made-up tools: their JSON schema, a value, and the words for the value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama4_local.nano.training.data.words import (
    COLOURS,
    DAYS,
    SPOKEN_LANGUAGES,
    any_city,
    any_name,
    any_word,
    phrase,
    random_word,
)

if TYPE_CHECKING:
    from random import Random


@dataclass(frozen=True, slots=True)
class Value:
    """One argument: its JSON schema, its value, and how a person says it."""

    schema: dict[str, Any]
    value: Any
    said: str


_CURRENCIES = ("EUR", "USD", "GBP", "JPY", "CHF", "INR", "CAD", "SEK", "BRL", "THB", "VND")


def value_of(rng: Random, kind: str) -> Value:
    """Return a value of one of the kinds: city, person, word, text, whole, signed, number, switch and more."""
    if kind == "whole":
        return _number(rng.randint(1, 9) if rng.random() < 0.5 else rng.randint(10, 1200), "integer")
    if kind == "small":
        return _number(rng.randint(1, 30), "integer")
    if kind == "signed":
        return _number(rng.randint(-50, 50), "integer")
    if kind == "number":
        return _number(_decimal(rng), "number")
    if kind.startswith("enum:"):
        return _enum(rng, kind[5:].split("|"))
    if kind == "switch":
        value = rng.random() < 0.5
        return Value({"type": "boolean"}, value, rng.choice(("true", "on", "yes") if value else ("false", "off", "no")))
    if kind == "choice":
        return _enum(rng, [random_word(rng) if rng.random() < 0.3 else any_word(rng) for _ in range(rng.randint(2, 4))])
    text = _text(rng, kind)
    return Value({"type": "string"}, text, text)


def _number(value: float, kind: str) -> Value:
    return Value({"type": kind}, value, str(value))


def _decimal(rng: Random) -> float:
    roll = rng.random()
    if roll < 0.3:
        return rng.randint(1, 500)
    value = round(rng.uniform(0.1, 200), rng.choice((1, 2)))
    return -value if roll > 0.9 else value


def _enum(rng: Random, words: list[str]) -> Value:
    value = rng.choice(words)
    return Value({"type": "string", "enum": words}, value, value)


def _text(rng: Random, kind: str) -> str:
    match kind:
        case "city":
            return any_city(rng)
        case "person":
            return any_name(rng)
        case "text":
            return phrase(rng)
        case "time":
            return f"{rng.randint(0, 23)}:{rng.choice(('00', '15', '30', '45'))}"
        case "date":
            return f"{rng.randint(2020, 2030)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
        case "day":
            return rng.choice(DAYS)
        case "email":
            return f"{any_name(rng).lower()}@{any_word(rng)}.{rng.choice(('com', 'org', 'net'))}"
        case "currency":
            return rng.choice(_CURRENCIES)
        case "language":
            return rng.choice(SPOKEN_LANGUAGES)
        case "colour":
            return rng.choice(COLOURS)
        case "symbol":
            return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(3, 4)))
        case _:
            return any_word(rng)
