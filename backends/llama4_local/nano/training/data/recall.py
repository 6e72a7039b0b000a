# ruff: noqa: E501 - word lists read best as they stand
"""Remembering what the user said earlier: name, home, pet, favourite things, a code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama4_local.nano.training.data.arithmetic import arithmetic
from llama4_local.nano.training.data.capitals import capitals
from llama4_local.nano.training.data.greetings import greeting
from llama4_local.nano.training.data.identity import identity, outside
from llama4_local.nano.training.data.wording import worded
from llama4_local.nano.training.data.words import (
    ANIMALS,
    COLOURS,
    FOODS,
    HOBBIES,
    JOBS,
    any_city,
    any_name,
    any_word,
    random_word,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from llama4_local.nano.training.data.sample import Exchange


@dataclass(frozen=True, slots=True)
class _Fact:
    told: tuple[str, ...]
    noted: str
    asked: tuple[str, ...]
    known: str
    unknown: str
    value: Callable[[Random], str]


def _one_of(words: tuple[str, ...], rng: Random) -> str:
    return rng.choice(words) if rng.random() < 0.75 else random_word(rng)


_FACTS: dict[str, _Fact] = {
    "name": _Fact(
        ("My name is {v}.", "I am {v}.", "I'm {v}.", "Call me {v}.", "You can call me {v}.", "Hello, my name is {v}.", "Hi, I'm {v}.",
         "My name's {v}.", "This is {v}.", "People call me {v}.", "I am called {v}.", "Hi, I am {v}!", "Hello! I am {v}."),
        "Nice to meet you, {v}!",
        ("What is my name?", "What's my name?", "Who am I?", "Do you remember my name?", "Do you know my name?", "Tell me my name.",
         "How am I called?", "What was my name?", "Can you tell me my name?", "What did I say my name was?", "say my name",
         "Do you still know my name?", "What am I called?", "Which name did I tell you?"),
        "Your name is {v}.", "You have not told me your name.", any_name,
    ),
    "city": _Fact(
        ("I live in {v}.", "My home is in {v}.", "I am from {v}.", "I come from {v}.", "I'm from {v}.", "My city is {v}.", "I moved to {v}.",
         "My home town is {v}.", "I live in the city of {v}."),
        "I will remember that you live in {v}.",
        ("Where do I live?", "Which city do I live in?", "In which city do I live?", "What is my city?", "Where am I from?", "Where is my home?",
         "Do you remember where I live?", "Do you know where I live?", "Tell me where I live.", "Which city am I from?", "What city do I live in?"),
        "You live in {v}.", "You have not told me where you live.", any_city,
    ),
    "colour": _Fact(
        ("My favourite colour is {v}.", "My favorite color is {v}.", "I like the colour {v} best.", "The colour I love most is {v}.",
         "{v} is my favourite colour.", "I love the color {v}."),
        "I will remember that your favourite colour is {v}.",
        ("What is my favourite colour?", "What is my favorite color?", "Which colour do I like?", "Which colour do I like best?", "What colour do I love?",
         "Do you remember my favourite colour?", "What's my favourite color?", "Tell me my favourite colour."),
        "Your favourite colour is {v}.", "You have not told me your favourite colour.", lambda rng: _one_of(COLOURS, rng),
    ),
    "food": _Fact(
        ("My favourite food is {v}.", "I like to eat {v}.", "I love {v} for dinner.", "The food I like best is {v}.", "My favorite food is {v}."),
        "I will remember that your favourite food is {v}.",
        ("What is my favourite food?", "What do I like to eat?", "Which food do I like?", "What is my favorite food?", "What's my favourite food?",
         "Do you remember what I like to eat?"),
        "Your favourite food is {v}.", "You have not told me your favourite food.", lambda rng: _one_of(FOODS, rng),
    ),
    "pet": _Fact(
        ("My {kind} is called {v}.", "I have a {kind} called {v}.", "I have a {kind} named {v}.", "My {kind}'s name is {v}.", "The name of my {kind} is {v}."),
        "I will remember that your {kind} is called {v}.",
        ("What is my {kind} called?", "What is the name of my {kind}?", "What is my {kind}'s name?", "Do you remember my {kind}'s name?",
         "How is my {kind} called?", "What's my {kind}'s name?", "Tell me the name of my {kind}."),
        "Your {kind} is called {v}.", "You have not told me about your {kind}.", any_name,
    ),
    "job": _Fact(
        ("I work as a {v}.", "My job is {v}.", "I am a {v} by profession.", "I earn my money as a {v}."),
        "I will remember that your job is {v}.",
        ("What is my job?", "What do I do for a living?", "What's my job?", "Do you remember my job?", "What do I work as?", "Which job do I have?"),
        "Your job is {v}.", "You have not told me your job.", lambda rng: _one_of(JOBS, rng),
    ),
    "hobby": _Fact(
        ("My hobby is {v}.", "My favourite hobby is {v}.", "In my free time I like {v}.", "I enjoy {v} in my free time."),
        "I will remember that your hobby is {v}.",
        ("What is my hobby?", "What do I do in my free time?", "What's my hobby?", "Do you remember my hobby?", "Which hobby do I have?"),
        "Your hobby is {v}.", "You have not told me your hobby.", lambda rng: _one_of(HOBBIES, rng),
    ),
    "age": _Fact(
        ("I am {v} years old.", "I'm {v} years old.", "My age is {v}.", "I turned {v} this year.", "I am {v}."),
        "I will remember that you are {v} years old.",
        ("How old am I?", "What is my age?", "What's my age?", "Do you remember how old I am?", "Do you know my age?", "Tell me my age."),
        "You are {v} years old.", "You have not told me your age.", lambda rng: str(rng.randint(5, 99)),
    ),
    "number": _Fact(
        ("My {kind} number is {v}.", "The {kind} number is {v}.", "Remember the {kind} number {v}.", "Keep in mind that the {kind} number is {v}."),
        "I will remember that the {kind} number is {v}.",
        ("What is the {kind} number?", "What is my {kind} number?", "Which {kind} number did I tell you?", "Do you remember the {kind} number?",
         "What was the {kind} number?", "Tell me the {kind} number."),
        "The {kind} number is {v}.", "You have not told me the {kind} number.", lambda rng: str(rng.randint(10, 99999)),
    ),
    "word": _Fact(
        ("Remember the word {v}.", "The secret word is {v}.", "The password is {v}.", "Keep the word {v} in mind.", "My secret word is {v}."),
        "I will remember the word {v}.",
        ("What is the secret word?", "Which word did I tell you?", "What was the word?", "What is the password?", "Do you remember the word?",
         "Which word should you remember?", "Tell me the word."),
        "The word is {v}.", "You have not told me a word.", any_word,
    ),
}  # fmt: skip
_KINDS = {"pet": ANIMALS, "number": ("room", "house", "phone", "ticket", "order", "lucky", "seat", "locker", "shirt")}
_BETWEEN = (arithmetic, capitals, greeting, identity, outside)


def recall(rng: Random) -> tuple[list[Exchange], str]:
    """Return a dialog in which the user tells something and asks for it later, and its key."""
    subjects = rng.sample(list(_FACTS), rng.choice((1, 1, 2, 2, 3)))
    values = {subject: _FACTS[subject].value(rng) for subject in subjects}
    kinds = {subject: rng.choice(_KINDS.get(subject, ("",))) for subject in _FACTS}
    exchanges: list[Exchange] = []
    if len(subjects) >= 2 and rng.random() < 0.35:
        exchanges.append(_told_together(rng, subjects, values, kinds))
    else:
        for subject in subjects:
            exchanges.append(_told(rng, subject, values[subject], kinds[subject]))
            exchanges += _aside(rng, 0.25)
    if rng.random() < 0.1:
        subject = rng.choice(subjects)
        values[subject] = _FACTS[subject].value(rng)
        exchanges.append(_told(rng, subject, values[subject], kinds[subject]))
    exchanges += _aside(rng, 0.3)
    asked = rng.choice(list(_FACTS)) if rng.random() < 0.12 else rng.choice(subjects)
    exchanges.append(_asked(rng, asked, values.get(asked), kinds[asked]))
    if asked in values and len(values) > 1 and rng.random() < 0.3:
        other = rng.choice([subject for subject in subjects if subject != asked])
        exchanges.append(_asked(rng, other, values[other], kinds[other]))
    return exchanges, " ".join(values.values())


def _told(rng: Random, subject: str, value: str, kind: str) -> Exchange:
    fact = _FACTS[subject]
    return worded(rng, fact.told, v=value, kind=kind), fact.noted.format(v=value, kind=kind)


def _told_together(rng: Random, subjects: list[str], values: dict[str, str], kinds: dict[str, str]) -> Exchange:
    said = [rng.choice(_FACTS[subject].told).format(v=values[subject], kind=kinds[subject]) for subject in subjects]
    noted = [_FACTS[subject].noted.format(v=values[subject], kind=kinds[subject]) for subject in subjects]
    return " ".join(said), " ".join(noted)


def _asked(rng: Random, subject: str, value: str | None, kind: str) -> Exchange:
    fact = _FACTS[subject]
    question = worded(rng, fact.asked, kind=kind)
    return question, fact.unknown.format(kind=kind) if value is None else fact.known.format(v=value, kind=kind)


def _aside(rng: Random, chance: float) -> list[Exchange]:
    return rng.choice(_BETWEEN)(rng)[0] if rng.random() < chance else []
