# ruff: noqa: E501 - word lists read best as they stand
"""Calling declared functions, choosing among them, leaving them alone, and reporting their results."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llama4_local.nano.training.data.arithmetic import arithmetic
from llama4_local.nano.training.data.capitals import capitals
from llama4_local.nano.training.data.greetings import greeting
from llama4_local.nano.training.data.identity import identity, outside
from llama4_local.nano.training.data.recall import recall
from llama4_local.nano.training.data.sample import Exchange, Sample
from llama4_local.nano.training.data.scenes import joined
from llama4_local.nano.training.data.tools import Asked, familiar, made_up, repeated
from llama4_local.nano.training.data.wording import system_text
from llama4_local.nano.training.data.words import ADJECTIVES, any_city, any_name, any_word, phrase
from llama4sdk.messages import AssistantMessage, Message, SystemMessage, ToolMessage, UserMessage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from llama4sdk.request import ToolChoice, ToolSpec


def tool_call(rng: Random) -> Sample:
    """Return a question that one of the declared tools answers."""
    asked = _asked(rng)
    tools = _with_others(rng, asked.spec, asked.subject)
    messages = _opening(rng)
    messages += [UserMessage(asked.said), AssistantMessage("", tool_calls=[asked.call])]
    choice: ToolChoice = "auto"
    if rng.random() < 0.06:
        choice = "required" if rng.random() < 0.5 else asked.call.name
    return Sample("tool calls", tuple(messages), _key(asked), tuple(tools), choice)


def two_calls(rng: Random) -> Sample:
    """Return a question that needs the same tool twice, for two values."""
    spec, said, calls, subject = repeated(rng)
    messages = [*_opening(rng), UserMessage(said), AssistantMessage("", tool_calls=calls)]
    return Sample("tool calls", tuple(messages), f"{spec.name} {said}", tuple(_with_others(rng, spec, subject)))


def tool_result(rng: Random) -> Sample:
    """Return a dialog in which a tool has answered, to be told in a sentence; at times another call follows."""
    if rng.random() < 0.2:
        return _two_results(rng)
    asked = _asked(rng)
    result, told = _result(rng)
    messages = _opening(rng)
    messages += [UserMessage(asked.said), AssistantMessage("", tool_calls=[asked.call])]
    messages += [ToolMessage(result), AssistantMessage(told)]
    tools = _with_others(rng, asked.spec, asked.subject)
    if rng.random() < 0.2:
        again = made_up(rng)
        if again.spec.name not in {tool.name for tool in tools}:
            tools.append(again.spec)
            messages += [UserMessage(again.said), AssistantMessage("", tool_calls=[again.call])]
            return Sample("tool calls", tuple(messages), _key(again), tuple(tools))
    return Sample("tool results", tuple(messages), f"{_key(asked)} {result}", tuple(tools))


def _two_results(rng: Random) -> Sample:
    spec, said, calls, subject = repeated(rng)
    plain = rng.random() < 0.4
    results = [(text, text) for text in (_plain(rng) for _ in calls)] if plain else _alike(rng, len(calls))
    messages = [*_opening(rng), UserMessage(said), AssistantMessage("", tool_calls=calls)]
    messages += [ToolMessage(given) for given, _ in results]
    each = [told for _, told in results]
    told = joined(each) if plain else "; ".join(each)
    messages.append(AssistantMessage(f"Here are the answers: {told}."))
    key = f"{spec.name} {said} {told}"
    return Sample("tool results", tuple(messages), key, tuple(_with_others(rng, spec, subject)))


def _alike(rng: Random, count: int) -> list[tuple[str, str]]:
    """Return results with the same fields, as JSON and as they are told."""
    keys = rng.sample(_FIELDS, rng.choice((1, 2, 2)))
    kinds = {key: type(_field_value(rng)) for key in keys}
    found: list[tuple[str, str]] = []
    for _ in range(count):
        fields = {key: _value_like(rng, kind) for key, kind in kinds.items()}
        found.append((_as_json(rng, fields), _told_fields(fields)))
    return found


def _value_like(rng: Random, kind: type) -> Any:
    value = _field_value(rng)
    while type(value) is not kind:
        value = _field_value(rng)
    return value


def _told_fields(fields: Mapping[str, Any]) -> str:
    return joined([f"the {key.replace('_', ' ')} is {_told(value)}" for key, value in fields.items()])


def no_call(rng: Random) -> Sample:
    """Return a question that no declared tool answers."""
    talk = rng.choice((arithmetic, capitals, greeting, identity, recall, outside, outside))
    exchanges, key = talk(rng)
    first = made_up(rng)
    if talk is outside:  # a familiar tool might fit by chance
        tools = list({spec.name: spec for spec in (first.spec, made_up(rng).spec)}.values())[: rng.randint(1, 2)]
    else:
        tools = _with_others(rng, first.spec, "add")
    return Sample("no tool needed", (*_opening(rng, False), *_spoken(exchanges)), key, tuple(tools))


def _asked(rng: Random) -> Asked:
    return familiar(rng) if rng.random() < 0.45 else made_up(rng)


def _key(asked: Asked) -> str:
    return f"{asked.call.name} {json.dumps(asked.call.arguments)}"


def _with_others(rng: Random, spec: ToolSpec, subject: str) -> list[ToolSpec]:
    """Return the tool among others, no two of them for the same subject."""
    tools, subjects = {spec.name: spec}, {subject}
    for _ in range(rng.choices((0, 1, 2, 3), (5, 4, 2, 1))[0]):
        other = _asked(rng)
        if other.subject not in subjects:
            subjects.add(other.subject)
            tools.setdefault(other.spec.name, other.spec)
    listed = list(tools.values())
    rng.shuffle(listed)
    return listed


def _opening(rng: Random, asides: bool = True) -> list[Message]:
    system = system_text(rng) if rng.random() < 0.4 else ""
    messages: list[Message] = [SystemMessage(system)] if system else []
    if asides and rng.random() < 0.1:
        exchanges, _ = rng.choice((arithmetic, capitals, greeting, identity))(rng)
        messages += _spoken(exchanges)
    return messages


def _spoken(exchanges: list[Exchange]) -> list[Message]:
    messages: list[Message] = []
    for said, answered in exchanges:
        messages += [UserMessage(said), AssistantMessage(answered)]
    return messages


_SKIES = ("sunny", "cloudy", "rain", "snow", "fog", "windy", "clear", "storm")
_PLAIN = (
    "{number} degrees and {sky}", "{sky}, {number} degrees", "{sky}", "{number}", "{number} °C", "done", "ok", "sent", "{time}", "{phrase}", "{city}",
    "{name}", "{decimal}", "{decimal} EUR", "{number} km", "the {word} is {adjective}", "It is {number} degrees in {city}", "{name} lives in {city}",
    "true", "false", "{number} minutes", "The {word} was saved", "{word}, {word2}", "{time} in {city}", "{number} results", "{adjective} {word}",
)  # fmt: skip
_FIELDS = (
    "temperature", "sky", "wind", "humidity", "time", "city", "price", "status", "name", "count", "total", "result", "distance", "rate", "title",
    "wind_speed", "order_id", "user_name", "amount", "unit", "date", "day", "location", "rain", "currency", "symbol", "text", "message", "age",
    "level", "id", "size", "answer", "open", "value", "room_number", "delivery_date", "weight", "colour",
)  # fmt: skip


def _result(rng: Random) -> tuple[str, str]:
    roll = rng.random()
    if roll < 0.4:
        text = _plain(rng)
        ended = f"{text}." if rng.random() < 0.25 else text
        return ended, f"Here is the answer: {text}."
    if roll < 0.52:
        what = rng.choice(
            (
                "not found",
                "{city} not found",
                "no such {word}",
                "timeout",
                "{word} is missing",
                "unknown {word}",
                "bad {word}",
                "the call was refused: {words}",
                "The call was refused: no {word}s from {word2}s",
                "{words}",
                "{other} {words}: {word}",
            )
        )
        words, word2 = phrase(rng, 2, 6), any_word(rng)
        other = any_word(rng).capitalize()
        what = what.format(city=any_city(rng), word=any_word(rng), words=words, word2=word2, other=other)
        return _as_json(rng, {"error": what}), f"The call failed: {what}."
    keys = rng.sample(_FIELDS, rng.choice((1, 2, 2, 3)))
    keys = [any_word(rng) if rng.random() < 0.2 else key for key in keys]
    fields = {key: _field_value(rng) for key in keys}
    told = _told_fields(fields)
    return _as_json(rng, fields), f"T{told[1:]}."


def _as_json(rng: Random, value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":") if rng.random() < 0.2 else None)


def _field_value(rng: Random) -> Any:
    roll = rng.random()
    if roll < 0.4:
        return rng.randint(-20, 999)
    if roll < 0.5:
        return round(rng.uniform(0, 100), rng.choice((1, 2)))
    if roll < 0.56:
        return rng.random() < 0.5
    return rng.choice((rng.choice(_SKIES), any_word(rng), any_city(rng), any_name(rng), phrase(rng, 1, 3)))


def _told(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(rng: Random) -> str:
    return rng.choice(_PLAIN).format(
        number=rng.randint(-20, 999), decimal=round(rng.uniform(0, 200), 2), sky=rng.choice(_SKIES), city=any_city(rng), name=any_name(rng),
        word=any_word(rng), word2=any_word(rng), adjective=rng.choice(ADJECTIVES), phrase=phrase(rng),
        time=f"{rng.randint(0, 23)}:{rng.randint(0, 59):02}",
    )  # fmt: skip
