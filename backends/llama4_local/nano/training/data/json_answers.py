# ruff: noqa: E501 - word lists read best as they stand
"""Answers in JSON: the named fields, in the named order, from a text, a sum, a capital or an image."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llama4_local.nano.training.data.capitals import CAPITALS
from llama4_local.nano.training.data.sample import Sample
from llama4_local.nano.training.data.scenes import joined
from llama4_local.nano.training.data.wording import system_text, worded
from llama4_local.nano.training.data.words import (
    COLOURS,
    DAYS,
    HOBBIES,
    JOBS,
    any_city,
    any_name,
    any_word,
    random_word,
)
from llama4_local.nano.training.images import draw, random_scene
from llama4sdk.messages import AssistantMessage, Image, Message, SystemMessage, Text, UserMessage
from llama4sdk.request import OutputSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random

_ASK = (
    "{text}\nGive me {fields} as JSON.", "{text} Answer in JSON with the fields {fields}.", "Extract {fields} as JSON: {text}",
    "{text}\nReturn JSON with {fields}.", "Read {fields} from this text and answer in JSON: {text}", "JSON with {fields}: {text}",
    "Give {fields} as a JSON object. {text}", "{text} Please answer in JSON: {fields}.", "Answer in JSON with {fields}. {text}",
    "Extract the fields {fields} in JSON from: {text}", "{text}\n\nJSON, please: {fields}", "Turn this into JSON with {fields}: {text}",
    "{text} Output a JSON object with the keys {fields}.",
)  # fmt: skip
_ASK_TYPED = (
    "{text}", "{text}", "Extract the data: {text}", "Read this: {text}", "{text}\nExtract the fields.", "Parse this: {text}",
    "Fill in the fields from this text: {text}", "Who or what is this about? {text}", "Extract the details from: {text}",
)  # fmt: skip
_SENTENCES: tuple[tuple[str, ...], ...] = (
    ("{name} is {age} years old and lives in {city}.", "{name}, {age}, from {city}.", "{name} lives in {city} and is {age} years old.",
     "My friend {name} is {age} and comes from {city}.", "In {city} lives {name}, who is {age} years old."),
    ("{name} is {age} years old.", "{name} is {age}.", "My friend {name} turned {age}.", "I am {name}, {age} years old.", "{name} ({age})"),
    ("{name} works as a {job} in {city}.", "{name} is a {job} from {city}.", "In {city}, {name} works as a {job}.", "The {job} {name} lives in {city}."),
    ("{name} is a {job} and likes {hobby}.", "{name} likes {hobby} and works as a {job}.", "{name}, a {job}, enjoys {hobby}."),
    ("I bought {quantity} {item}s for {price} euros.", "{quantity} {item}s cost {price} euros.", "Order: {quantity} {item}s at {price} euros.",
     "Please send me {quantity} {item}s for {price} dollars."),
    ("The {item} is {color} and costs {price} euros.", "A {color} {item} for {price} euros.", "I want the {color} {item} at {price} dollars."),
    ("{name} meets {person} on {day} at {time}.", "On {day} at {time}, {name} meets {person}.", "Meeting of {name} and {person}: {day}, {time}."),
    ("The {event} is on {day} in {city}.", "On {day} there is a {event} in {city}.", "{event} in {city}, {day}."),
    ("The train to {city} leaves at {time} from platform {platform}.", "At {time} a train leaves for {city} from platform {platform}."),
)  # fmt: skip
_SHAPE_ASK = (
    "What is in this picture?",
    "Describe the shape.",
    "Describe this image.",
    "Read the picture.",
    "",
    "Which shape is it?",
    "What do you see?",
)
_PLAIN_SHAPE_ASK = (
    "What is in this picture? Answer in JSON with {fields}.",
    "Give me {fields} of the shape as JSON.",
    "Describe this image as JSON with {fields}.",
)
_SUM_ASK = ("What is {a} {op} {b}?", "{a} {op} {b}", "Calculate {a} {op} {b}.", "How much is {a} {op} {b}?")
_CAPITAL_ASK = (
    "What is the capital of {country}?",
    "Capital of {country}?",
    "Name the capital of {country}.",
    "{country}",
)
_INTEGERS = ("age", "quantity", "platform", "count", "result", "answer")


def json_answer(rng: Random) -> Sample:
    """Return a question to be answered in JSON, by a schema or in plain words."""
    roll = rng.random()
    if roll < 0.62:
        return _from_text(rng)
    if roll < 0.74:
        return _from_list(rng)
    if roll < 0.82:
        return _from_sum(rng)
    if roll < 0.88:
        return _from_capital(rng)
    return _from_image(rng)


def _values(rng: Random) -> dict[str, Any]:
    price = rng.randint(1, 200) if rng.random() < 0.5 else round(rng.uniform(1, 100), rng.choice((1, 2)))
    return {
        "name": any_name(rng),
        "person": any_name(rng),
        "age": rng.randint(3, 99),
        "city": any_city(rng),
        "job": rng.choice(JOBS) if rng.random() < 0.8 else random_word(rng),
        "hobby": rng.choice(HOBBIES) if rng.random() < 0.8 else random_word(rng),
        "quantity": rng.randint(2, 60),
        "item": any_word(rng),
        "price": price,
        "color": rng.choice(COLOURS),
        "day": rng.choice(DAYS),
        "time": f"{rng.randint(0, 23)}:{rng.choice(('00', '15', '30', '45', f'{rng.randint(0, 59):02}'))}",
        "event": f"{any_word(rng)} {rng.choice(('party', 'meeting', 'concert', 'market', 'fair'))}",
        "platform": rng.randint(1, 30),
    }


def _from_text(rng: Random) -> Sample:
    values = _values(rng)
    template = rng.choice(rng.choice(_SENTENCES))
    told = [field for field in values if f"{{{field}}}" in template]
    text = template.format(**values)
    asked = rng.sample(told, rng.randint(1, len(told)))
    if rng.random() < 0.5:
        asked = [field for field in told if field in asked]
    answer = {field: values[field] for field in asked}
    if rng.random() < 0.06:
        missing = rng.choice([field for field in ("city", "job", "hobby", "color", "day") if field not in told])
        answer[missing] = None
    return _asked(rng, text, answer, f"{text} {' '.join(answer)}")


def _from_list(rng: Random) -> Sample:
    fields = [random_word(rng) if rng.random() < 0.3 else any_word(rng) for _ in range(rng.randint(2, 4))]
    values: dict[str, Any] = {field: rng.randint(0, 500) if rng.random() < 0.4 else any_name(rng) for field in fields}
    separator, between = rng.choice(((": ", ", "), (" = ", ", "), (": ", "\n"), (" is ", ", ")))
    text = between.join(f"{field}{separator}{value}" for field, value in values.items())
    asked = rng.sample(list(values), rng.randint(1, len(values)))
    return _asked(rng, text, {field: values[field] for field in asked}, text)


def _from_sum(rng: Random) -> Sample:
    a, b, op = rng.randint(0, 99), rng.randint(0, 99), rng.choice("+-")
    result = a + b if op == "+" else a - b
    text = worded(rng, _SUM_ASK, a=a, b=b, op=op)
    key = f"{min(a, b)}+{max(a, b)}" if op == "+" else f"{a}-{b}"
    return _asked(rng, text, {rng.choice(("result", "answer", "value")): result}, key)


def _from_capital(rng: Random) -> Sample:
    country = rng.choice(list(CAPITALS))
    answer = {"capital": CAPITALS[country]}
    if rng.random() < 0.5:
        answer = {"country": country, **answer}
    text = worded(rng, _CAPITAL_ASK, country=country)
    return _asked(rng, text, answer, text)


def _from_image(rng: Random) -> Sample:
    several = rng.random() < 0.5
    scene = random_scene(rng) if several else random_scene(rng, 1)
    colour = rng.choice(("colour", "color"))
    form = rng.choice(("shape", "form"))
    each: list[dict[str, Any]] = [{form: shape.form, colour: shape.colour} for shape in scene.shapes]
    if rng.random() < 0.4:
        each = [{colour: item[colour], form: item[form]} for item in each]
    answer: dict[str, Any] = {rng.choice(("shapes", "objects")): each} if several else each[0]
    if rng.random() < 0.2:
        answer = {"count": len(scene.shapes)}
    return _asked(rng, worded(rng, _SHAPE_ASK), answer, scene.key, Image(draw(rng, scene)))


def _asked(rng: Random, text: str, answer: Mapping[str, Any], key: str, image: Image | None = None) -> Sample:
    typed = rng.random() < 0.55 or any(isinstance(value, list) for value in answer.values())
    if image:
        said = text if typed else rng.choice(_PLAIN_SHAPE_ASK).format(fields=_named(rng, list(answer)))
    elif typed:
        said = rng.choice(_ASK_TYPED).format(text=text)
    else:
        said = rng.choice(_ASK).format(text=text, fields=_named(rng, list(answer)))
    system = system_text(rng) if rng.random() < 0.4 else ""
    messages: list[Message] = [SystemMessage(system)] if system else []
    parts = [*([image] if image else []), *([Text(said)] if said else [])]
    messages += [UserMessage(parts), AssistantMessage(json.dumps(answer, ensure_ascii=False))]
    output = OutputSpec(schema_of(rng, answer)) if typed else None
    return Sample("json answers", tuple(messages), key, output=output)


def _named(rng: Random, fields: Sequence[str]) -> str:
    quoted = [f'"{field}"' for field in fields] if rng.random() < 0.2 else list(fields)
    return joined(quoted) if rng.random() < 0.7 else ", ".join(quoted)


def schema_of(rng: Random, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON schema that asks for such an answer, in the style of pydantic or of a person."""
    titled = rng.random() < 0.5
    fields = {name: _field(name, value, titled, nested=rng.random() < 0.5) for name, value in answer.items()}
    definitions = {k: v for field in fields.values() for k, v in field.pop("$defs", {}).items()}
    body: dict[str, Any] = {"properties": fields, "required": list(answer)}
    if titled:
        title = rng.choice(("Answer", "Person", "Result", "Data", "Info", random_word(rng).capitalize()))
        schema = {**body, "title": title, "type": "object"}
    else:
        schema = {"type": "object", **body}
        if rng.random() < 0.3:
            schema["additionalProperties"] = False
    return {"$defs": definitions, **schema} if definitions else schema


def _field(name: str, value: Any, titled: bool, *, nested: bool) -> dict[str, Any]:
    title = {"title": name.replace("_", " ").title()} if titled else {}
    if isinstance(value, list):
        item = {key: _field(key, part, titled, nested=False) for key, part in value[0].items()}
        one: dict[str, Any] = {
            "properties": item,
            "required": list(item),
            **({"title": "Shape"} if titled else {}),
            "type": "object",
        }
        if nested:
            return {"items": {"$ref": "#/$defs/Shape"}, **title, "type": "array", "$defs": {"Shape": one}}
        return {"items": one, **title, "type": "array"}
    if value is None:
        return {"anyOf": [{"type": "string"}, {"type": "null"}], **title}
    kind = (
        "string" if isinstance(value, str) else "number" if name == "price" or isinstance(value, float) else "integer"
    )
    return {**title, "type": kind}
