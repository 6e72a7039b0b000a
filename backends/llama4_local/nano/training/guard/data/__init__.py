"""The data that nano-guard learns from, all of it made here at random."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from itertools import islice
from random import Random
from typing import TYPE_CHECKING

from llama4_local.nano.training.data import mixture as nano_mixture
from llama4_local.nano.training.guard.data.case import Case, Maker, agent, user
from llama4_local.nano.training.guard.data.choices import Choices, Split
from llama4_local.nano.training.guard.data.everyday import everyday_question, oddity, statement
from llama4_local.nano.training.guard.data.injections import call, clean_result, harmful_call, injected_result
from llama4_local.nano.training.guard.data.lookalikes import lookalike
from llama4_local.nano.training.guard.data.pictures import bomb_pictures, pictures
from llama4_local.nano.training.guard.data.replies import harmful_answer, harmless_answer
from llama4_local.nano.training.guard.data.requests import CODES, harmful_question
from llama4sdk.messages import AssistantMessage, UserMessage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llama4sdk.messages import Message

__all__ = ["CODES", "HARMFUL", "KINDS", "Case", "cases", "mixture"]

_NANO_SAMPLES = 1000  # of nano's own dialogs, drawn from again and again


def _asked(choices: Choices, kind: str) -> Case:
    return Case((user(_loosely(choices, harmful_question(choices, kind))),), CODES[kind])


def _lookalike(choices: Choices) -> Case:
    return Case((user(_loosely(choices, lookalike(choices))),))


def _everyday(choices: Choices) -> Case:
    return Case((user(_loosely(choices, everyday_question(choices))),))


def _odd(choices: Choices) -> Case:
    text = oddity(choices)
    if choices.chance(0.3):
        return Case((user(everyday_question(choices)), agent(text)))
    return Case((user(text),))


def _nano(choices: Choices) -> Case:
    """Return a turn of a dialog that nano is trained on."""
    sample = choices.rng.choice(_nano_samples())
    turns = [one for one in sample if isinstance(one, UserMessage | AssistantMessage) and one.text and not one.images]
    if not turns:
        return _everyday(choices)
    last = choices.rng.choice(turns)
    if isinstance(last, UserMessage):
        return Case((user(last.text),))
    return Case((user("…"), agent(last.text)))


@cache
def _nano_samples() -> tuple[tuple[Message, ...], ...]:
    return tuple(sample.messages for sample in islice(nano_mixture(0), _NANO_SAMPLES))


_MAKERS: dict[str, tuple[Maker, float]] = {
    **{kind: (partial(_asked, kind=kind), 0.09) for kind in CODES},
    "harmful answers": (harmful_answer, 0.09),
    "harmful calls": (harmful_call, 0.03),
    "injections": (injected_result, 0.1),
    "bomb pictures": (bomb_pictures, 0.05),
    "look-alikes": (_lookalike, 0.16),
    "everyday": (_everyday, 0.14),
    "odd texts": (_odd, 0.04),
    "nano's dialogs": (_nano, 0.04),
    "answers": (harmless_answer, 0.1),
    "calls": (call, 0.03),
    "tools' results": (clean_result, 0.09),
    "pictures": (pictures, 0.06),
}
KINDS = tuple(_MAKERS)
HARMFUL = KINDS[: KINDS.index("look-alikes")]


def cases(seed: int, kind: str, split: Split = "train") -> Iterator[Case]:
    """Yield cases of a kind without end; the same seed gives the same ones.

    Args:
        seed: Any whole number.
        kind: One of `KINDS`.
        split: `wordings` and `words` draw what training never meets; see `Choices`.
    """
    choices = Choices(Random(f"{seed} {kind} {split}"), split)
    make, _ = _MAKERS[kind]
    while True:
        yield make(choices)


def mixture(seed: int) -> Iterator[tuple[str, Case]]:
    """Yield training cases with their kinds without end: some after other turns, some within long texts."""
    choices = Choices(Random(f"{seed} guard mixture"))
    shares = [share for _, share in _MAKERS.values()]
    while True:
        kind = choices.rng.choices(KINDS, shares)[0]
        case = _MAKERS[kind][0](choices)
        roll = choices.rng.random()
        yield kind, _after_talk(choices, case) if roll < 0.15 else _lengthened(choices, case) if roll < 0.25 else case


def _after_talk(choices: Choices, case: Case) -> Case:
    """Return a case with turns before it, on which there is no verdict."""
    before: list[Message] = []
    for _ in range(choices.rng.randint(1, 2)):
        asked = (
            harmful_question(choices, choices.any(tuple(CODES))) if choices.chance(0.2) else everyday_question(choices)
        )
        answered = "I can't help with that." if choices.chance(0.2) else statement(choices)
        before += [user(asked), agent(answered)]
    return replace(case, messages=(*before, *case.messages))


def _lengthened(choices: Choices, case: Case) -> Case:
    """Return a case whose last turn stands among harmless sentences."""
    last = case.messages[-1]
    most = 60 if choices.chance(0.15) else 6
    pieces = [statement(choices) for _ in range(choices.rng.randint(1, most))]
    pieces.insert(choices.rng.randint(0, len(pieces)), last.text)
    text = choices.any((" ", "\n")).join(pieces)
    turn = agent(text) if isinstance(last, AssistantMessage) else user(text, *last.images)
    return replace(case, messages=(*case.messages[:-1], turn))


def _loosely(choices: Choices, text: str) -> str:
    """Return a text as one person or another would type it."""
    roll = choices.rng.random()
    if roll < 0.15:
        text = text.lower()
    elif roll < 0.2:
        text = text.upper()
    if choices.chance(0.15):
        text = text.rstrip("?.!")
    if choices.chance(0.12):
        text = (
            choices.any(("Hi! ", "Hello, ", "Please help. ", "Hey, ", "Sorry to ask. ", "One question. ", "So... "))
            + text
        )
    if choices.chance(0.1):
        text += choices.any(
            (" Thanks!", " please", " Thank you.", " Be brief.", " Answer in one sentence.", " It is for school.")
        )
    return text
