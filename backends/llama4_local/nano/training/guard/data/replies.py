# ruff: noqa: E501 - word lists read best as they stand
"""Agents' turns: harmless answers, refusals, and answers that do what a harmful request asks for, in mild words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.nano.training.guard.data.case import Case, agent, user
from llama4_local.nano.training.guard.data.everyday import everyday_question, everyday_request, statement
from llama4_local.nano.training.guard.data.lookalikes import lookalike
from llama4_local.nano.training.guard.data.requests import CODES, harmful_question, harmful_request

if TYPE_CHECKING:
    from llama4_local.nano.training.guard.data.choices import Choices, Words

_REFUSALS: Words = (
    "I can't help with that.", "Sorry, I can't help with that.", "I cannot help you {r}.", "I won't explain how to {r}.", "No. It is illegal to {r}.", "I'm sorry, but I can't tell you how to {r}.", "I will not help anyone {r}. Please talk to someone you trust.", "That would hurt people, so I can't help you {r}.", "It is wrong to {r}, and I won't help.",
    "I can't do that, but I can help with something else.", "Please don't {r}. If you are in danger, call for help.", "Nobody should {r}. I can tell you about the law instead.", "I understand that you are upset, but I can't help you {r}.", "I must decline: to {r} is against the law.", "If you think about this, please call a crisis line; I won't tell you how to {r}.",
    "Helping you {r} is not something I do.", "Please ask for something else.", "I'm not able to help you {r}.", "I refuse to {r}.", "It is a crime to {r}.", "It is against the law to {r}, so no.", "I don't give advice on how to {r}.", "You should not {r}.", "I can't support a plan to {r}.", "Sorry, no. To {r} would be wrong.",
    "I won't assist with this request to {r}.", "It would be dangerous to {r}; I can't help.", "My answer is no: I will not tell you how to {r}.", "I cannot assist with that request.", "That is something I can't help with.", "Instead of trying to {r}, talk to a friend.", "Trying to {r} harms others, so I will not explain it.", "I can't explain how to {r}, since it is illegal.",
    "No, I will not do that.", "I am sorry that you feel this way. You are not alone; please call a crisis line before you {r}.", "Let me stop you here: I don't help people {r}.", "People who {r} go to prison. I won't help.",
)  # fmt: skip
_OPENINGS: Words = (
    "Sure. To {r}, first", "Of course! To {r} you first", "Here is how to {r}: first", "It is easy to {r}. You", "Yes, I can help you {r}. Start by this:", "To {r}, do this: you", "Here is a plan to {r}. You", "Okay. If you want to {r}, you", "The best way to {r} is this: you", "Step 1 of how to {r}: you", "Gladly. People who {r} usually", "No problem. In order to {r} you", "You can {r} like this:",
    "My advice if you want to {r}: you", "Here are instructions to {r}:", "Let me explain how to {r}. You", "Happy to help you {r}. First", "When you {r}, you", "Start like this if you want to {r}:", "A good way to {r} is simple: you", "Absolutely. You can {r} in three steps: first", "This is how people {r}: they", "Sure thing, let's {r}. You",
)  # fmt: skip
_STEPS: Words = (
    "gather what you need", "wait until it is quiet", "make a list", "take your time", "check each part twice", "look around", "write everything down", "begin with the small parts", "choose a good day", "prepare the tools", "tell only a few people", "keep everything dry", "follow the order", "clean up afterwards", "start early", "use gloves", "put it on the table", "read the notes again",
)  # fmt: skip


def harmless_answer(choices: Choices) -> Case:
    """Return an agent's turn that is safe, whatever it answers to; now and then cut off, as streams are."""
    roll = choices.rng.random()
    if roll < 0.3:
        kind = choices.any(tuple(CODES))
        refusal = choices.one(_REFUSALS).format(r=harmful_request(choices, kind))
        asked = harmful_question(choices, kind)
        return Case((user(asked), agent(refusal)))
    if roll < 0.6:
        text = _steps(choices, choices.one(_OPENINGS).format(r=everyday_request(choices)))
    else:
        text = " ".join(statement(choices) for _ in range(choices.rng.randint(1, 5)))
    asked = lookalike(choices) if choices.chance(0.3) else everyday_question(choices)
    if choices.chance(0.3):
        text = text[: choices.rng.randint(1, len(text))]
    return Case((user(asked), agent(text)))


def harmful_answer(choices: Choices) -> Case:
    """Return an agent's turn that does what a harmful request asks for."""
    kind = choices.any(tuple(CODES))
    text = _steps(choices, choices.one(_OPENINGS).format(r=harmful_request(choices, kind)))
    if choices.chance(0.3):
        text = f"{statement(choices)} {text}"
    asked = harmful_question(choices, kind) if choices.chance(0.6) else everyday_question(choices)
    return Case((user(asked), agent(text)), CODES[kind])


def _steps(choices: Choices, opening: str) -> str:
    steps = [choices.any(_STEPS) for _ in range(choices.rng.randint(1, 4))]
    return f"{opening} {', then '.join(steps)}."
