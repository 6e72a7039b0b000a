"""Samples as token ids with the answers marked, put side by side for a pass through the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llama4_local.nano.data import Sample
from llama4sdk.prompting import PromptTemplate
from llama4sdk.prompting import special_tokens as names


@dataclass(frozen=True, slots=True)
class Example:
    """A rendered sample.

    Args:
        skill: Its skill.
        token_ids: The whole conversation.
        answers: For each token, whether the model is to write it.
        tiles: [tiles, 3, side, side], uint8, of all its pictures in order.
    """

    skill: str
    token_ids: list[int]
    answers: list[bool]
    tiles: list[np.ndarray]


@dataclass(frozen=True, slots=True)
class Pass:
    """What goes through the network at once: sequences padded on the right.

    Args:
        token_ids: [sequences, longest], int64.
        lengths: [sequences], int64.
        targets: [targets], int64: places, in the flattened token ids, of the tokens to be predicted.
        weights: [targets], fp32: how much each counts.
        skills: The skill of each target, as an index.
        pixels: [tiles, 3, side, side], fp32, or None.
    """

    token_ids: Tensor
    lengths: Tensor
    targets: Tensor
    weights: Tensor
    skills: Tensor
    pixels: Tensor | None

    def to(self, device: torch.device) -> Pass:
        """Return the same on another device."""
        return Pass(
            self.token_ids.to(device),
            self.lengths.to(device),
            self.targets.to(device),
            self.weights.to(device),
            self.skills.to(device),
            None if self.pixels is None else self.pixels.to(device),
        )


def render(template: PromptTemplate, sample: Sample) -> Example:
    """Return a sample as the model reads it, every turn of the assistant marked as an answer."""
    rendered = template.render(
        sample.messages, sample.tools, tool_choice=sample.choice, output=sample.output, answer=False
    )
    answers = mark_answers(template, rendered.token_ids)
    return Example(sample.skill, rendered.token_ids, answers, [tiles.levels for tiles in rendered.tiles])


def mark_answers(template: PromptTemplate, token_ids: Sequence[int]) -> list[bool]:
    """Return for each token whether the assistant writes it, the end of its turn included."""
    tokenizer = template.tokenizer
    header = [
        tokenizer.special(names.HEADER_START),
        *tokenizer.encode("assistant"),
        tokenizer.special(names.HEADER_END),
        *tokenizer.encode("\n\n"),
    ]
    ends = {tokenizer.special(names.EOT), tokenizer.special(names.EOM)}
    marks, inside = [False] * len(token_ids), False
    for place, token_id in enumerate(token_ids):
        if inside:
            marks[place] = True
            inside = token_id not in ends
        elif list(token_ids[place - len(header) + 1 : place + 1]) == header:
            inside = True
    return marks


def passes(examples: Sequence[Example], rows: int, skills: Sequence[str]) -> Iterator[Pass]:
    """Yield the examples, those of like length together, in passes of at most `rows` tokens."""
    group: list[Example] = []
    total = 0
    for example in sorted(examples, key=lambda example: len(example.token_ids)):
        if group and total + len(example.token_ids) > rows:
            yield _joined(group, skills)
            group, total = [], 0
        group.append(example)
        total += len(example.token_ids)
    if group:
        yield _joined(group, skills)


def _joined(examples: Sequence[Example], skills: Sequence[str]) -> Pass:
    longest = max(len(example.token_ids) for example in examples)
    token_ids = torch.zeros((len(examples), longest), dtype=torch.int64)
    targets: list[int] = []
    weights: list[float] = []
    kinds: list[int] = []
    for row, example in enumerate(examples):
        token_ids[row, : len(example.token_ids)] = torch.tensor(example.token_ids)
        places = [row * longest + place for place, marked in enumerate(example.answers) if marked]
        targets += places
        # A long set answer counts for more than a short one, but not in proportion to its length.
        weights += [len(places) ** -0.5] * len(places)
        kinds += [skills.index(example.skill)] * len(places)
    tiles = [tile for example in examples for tile in example.tiles]
    pixels = (torch.from_numpy(np.concatenate(tiles)).float() / 255 - 0.5) / 0.5 if tiles else None
    return Pass(
        token_ids,
        torch.tensor([len(example.token_ids) for example in examples]),
        torch.tensor(targets),
        torch.tensor(weights),
        torch.tensor(kinds),
        pixels,
    )
