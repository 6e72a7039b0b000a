"""How people put things: greetings before a question, lower case, missing punctuation, system prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.nano.training.data.words import WORDS, random_word
from llama4sdk.models import system_prompt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

_OPENINGS = (
    "Please, ",
    "Hey, ",
    "Hi! ",
    "Hello! ",
    "Hi, ",
    "Ok, ",
    "So, ",
    "Now ",
    "Thanks! ",
    "And ",
    "Quick question: ",
)
_CLOSINGS = (" please", " pls", ", please", " Thanks!", " Thank you.")
_SYSTEMS = (
    "You are a helpful assistant.",
    "You are nano, a small model.",
    "You are a friendly assistant.",
    "Answer briefly.",
    "Be concise.",
    "Be polite and answer in one sentence.",
    "You are an assistant inside an application.",
    "You are a helpful assistant. Answer truthfully.",
    "Help the user.",
    "You are Llama 4.",
    "You are a careful assistant. Do not guess.",
    "Answer in English.",
    "Keep your answers short and friendly.",
    "You are the assistant of a company. Answer the customer's questions.",
    "You see pictures and answer questions about them.",
    "You are a maths tutor.",
    "You are a travel guide.",
)
_SYSTEM_SENTENCES = (
    "Speak plainly.",
    "Use no lists.",
    "The user is a {word}.",
    "Today is day {number} of the year.",
    "Your office is in room {number}.",
    "Do not talk about {word}.",
    "The application is called {name}.",
    "Always be kind.",
    "Use short sentences.",
    "The customer likes {word}.",
    "When in doubt, say so.",
    "Version {number}.",
)


def worded(rng: Random, templates: Sequence[str], **values: object) -> str:
    """Return one of the templates, filled, as one person or another would type it."""
    text = rng.choice(templates)
    if not text:
        return text
    if rng.random() < 0.2:
        text = text.lower()
        if rng.random() < 0.4:
            text = text.replace("'", "")
    text = text.format(**values)
    if rng.random() < 0.2:
        text = text.rstrip("?.!")
    if rng.random() < 0.1:
        text = _opened(rng, text)
    if rng.random() < 0.1:
        text = _closed(rng, text)
    if rng.random() < 0.02:
        text = f" {text}" if rng.random() < 0.5 else f"{text}\n"
    return text


def _opened(rng: Random, text: str) -> str:
    opening = rng.choice(_OPENINGS)
    if rng.random() < 0.4:
        opening = opening.lower()
    follows = opening.rstrip().endswith(("!", ":"))
    first = text[0] if follows or text[:2] == "I " else text[0].lower()
    return opening + first + text[1:]


def _closed(rng: Random, text: str) -> str:
    closing = rng.choice(_CLOSINGS)
    if closing.startswith((" Th",)):
        return text + ("" if text.endswith(("?", ".", "!")) else ".") + closing
    end = text[-1] if text.endswith(("?", ".", "!")) else ""
    return text.rstrip("?.!") + closing + end


def system_text(rng: Random) -> str:
    """Return a system prompt, often none, now and then a long one."""
    roll = rng.random()
    if roll < 0.6:
        return ""
    if roll < 0.9:
        return rng.choice(_SYSTEMS)
    if roll < 0.985:
        return " ".join([rng.choice(_SYSTEMS), *(_sentence(rng) for _ in range(rng.randint(1, 4)))])
    if roll < 0.995:
        return " ".join([rng.choice(_SYSTEMS), *(_sentence(rng) for _ in range(rng.randint(5, 40)))])
    return system_prompt(rng.choice(("Llama 4", "nano")))


def _sentence(rng: Random) -> str:
    word = rng.choice(WORDS) if rng.random() < 0.7 else random_word(rng)
    return rng.choice(_SYSTEM_SENTENCES).format(
        word=word, number=rng.randint(1, 400), name=random_word(rng).capitalize()
    )
