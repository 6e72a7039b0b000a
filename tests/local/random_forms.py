"""Random schemas and tools, and a random checkpoint that can write to them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from llama4_local.checkpoint.writer import save_checkpoint
from llama4_local.config.model import ModelConfig
from llama4sdk import ToolSpec
from llama4sdk.prompting import Tokenizer
from local.small_backends import EOT, chatting, tokenizer_file
from local.small_checkpoints import biting_weights

TOOL_NAMES = ("get", "get_weather", "web.search", "set-light", "f")
_ENDING = '"]})'


def random_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema of any kind that a grammar can express whole."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "limits", "pattern", "format", "any"]
    kind = rng.choice(kinds if depth > 2 else [*kinds, "object", "object", "array", "anyOf", "dict", "types"])
    match kind:
        case "enum":
            return {"enum": rng.sample(["a", "b c", 'q"', "é", 1, -2.5, True, None, [1, None]], rng.randint(1, 4))}
        case "limits":
            low = rng.randint(-50, 50)
            return rng.choice([
                {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 100)},
                {"type": "number", "minimum": low, "exclusiveMaximum": low + 10},
                {"type": "integer", "multipleOf": rng.randint(1, 9)},
                {"type": "string", "minLength": rng.randint(0, 2), "maxLength": rng.randint(2, 6)},
                {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
                {"type": "string", "enum": ["a", 1, "b"]},
            ])  # fmt: skip
        case "pattern":
            return {"type": "string", "pattern": rng.choice(["^[a-z]{2,4}$", r"^\d{3}-\d{2}$", "^(yes|no)$"])}
        case "format":
            return {"type": "string", "format": rng.choice(["date", "time", "date-time", "duration", "uuid"])}
        case "any":
            return rng.choice([{}, {"description": "Anything."}])
        case "object":
            return _object(rng, depth)
        case "array":
            return {"type": "array", "items": random_schema(rng, depth + 1)}
        case "anyOf":
            return {"anyOf": [random_schema(rng, depth + 1) for _ in range(rng.randint(1, 3))]}
        case "dict":
            return {"type": "object", "additionalProperties": random_schema(rng, depth + 1)}
        case "types":
            return {"type": rng.sample(["string", "integer", "boolean", "null"], 2)}
        case _:
            return {"type": kind}


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(["a", "b_c", "name", "type", "x1", "é"], rng.randint(0, 4))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: random_schema(rng, depth + 1) for name in names},
        "required": [name for name in names if rng.random() < 0.6],
    }
    return schema | rng.choice([{}, {"additionalProperties": False}, {"additionalProperties": {"type": "integer"}}])


def random_counted_object(rng: random.Random) -> dict[str, Any]:
    """An object with limits on the number and the names of its fields, that some value fits."""
    names = rng.sample(["a", "b_c", "name", "type", "x1", "é"], rng.randint(1, 5))
    required = [name for name in names if rng.random() < 0.3]
    least = rng.randint(0, len(names))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: {"type": rng.choice(["integer", "boolean", "null"])} for name in names},
        "required": required,
        "minProperties": least,
        "maxProperties": max(least, len(required), rng.randint(0, len(names) + 2)),
    }
    for key in rng.sample(["minProperties", "maxProperties"], rng.randint(0, 2)):
        schema.pop(key)
    if least == 0 or "minProperties" not in schema:
        schema["propertyNames"] = {"enum": [*required, *rng.sample(names, rng.randint(0, len(names)))]}
    if rng.random() < 0.3:
        schema["patternProperties"] = {"^[a-z]$": {"enum": [1, True, None]}}
    return schema


def random_object_in_parts(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """An object that `allOf`, `anyOf` and its own keywords describe together; some fit no value."""
    kinds: list[Any] = [{"type": "integer"}, {"minimum": 3}, {"type": ["integer", "null"]}, True, {"enum": [1, True]}]
    names = rng.sample(["a", "b", "ab", "c"], rng.randint(1, 3))
    more: dict[str, Any] = {
        "additionalProperties": rng.choice([False, True, {"type": "integer"}]),
        "patternProperties": {rng.choice(["^a", "b$"]): rng.choice([{"type": "integer"}, False])},
        "required": rng.sample(["a", "b", "ab", "c"], rng.randint(1, 2)),
        "propertyNames": rng.choice([{"pattern": "^[a-b]"}, {"maxLength": 1}, {"enum": ["a", "b"]}]),
        "minProperties": rng.randint(0, 2),
        "maxProperties": rng.randint(1, 3),
    }
    schema: dict[str, Any] = {"type": "object", "properties": {name: rng.choice(kinds) for name in names}}
    schema |= {key: more[key] for key in more if rng.random() < 0.2}
    if depth < 2 and rng.random() < 0.6:
        schema[rng.choice(["allOf", "anyOf"])] = [random_object_in_parts(rng, depth + 1) for _ in range(2)]
    return schema


def random_tool(rng: random.Random, name: str) -> ToolSpec:
    """A tool with up to five parameters, some of them needed."""
    names = rng.sample(["city", "days", "on", "unit", "größe", "user-id", "x"], rng.randint(0, 5))
    properties = {each: random_schema(rng, 1) for each in names}
    required = [each for each in names if rng.random() < 0.5]
    return ToolSpec(name, "", {"type": "object", "properties": properties, "required": required})


def random_tools(rng: random.Random) -> tuple[ToolSpec, ...]:
    """One to four tools."""
    return tuple(random_tool(rng, name) for name in rng.sample(TOOL_NAMES, rng.randint(1, 4)))


def writing_config() -> ModelConfig:
    """Two layers and a long context: prompts show schemas a byte at a time."""
    config = chatting()
    text = replace(
        config.text,
        rope_layers=(True, False),
        moe_layers=(True, True),
        chunk=256,
        rope_scaling=None,
        max_positions=8192,
    )
    return ModelConfig(text, generation=config.generation, dtype="float32")


def save_writer(folder: Path, seed: int = 0) -> Path:
    """Save a random checkpoint that likes to close what it has opened.

    All tokens share a direction, and the scores of quotes, brackets and the end lean on it; else strings of random
    letters would hardly ever end.
    """
    config = writing_config()
    weights = biting_weights(config, seed)
    shared = torch.randn(config.text.hidden_size, generator=torch.Generator().manual_seed(seed + 2))
    shared /= shared.norm()
    head = weights.head.clone()
    head[[*Tokenizer.from_bytes(tokenizer_file()).encode(_ENDING), EOT]] += 1.2 * shared
    lively = weights.embedding + 3.0 * shared
    save_checkpoint(folder, config, replace(weights, embedding=lively, head=head))
    (folder / "tokenizer.json").write_bytes(tokenizer_file())
    return folder
