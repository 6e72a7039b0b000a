"""Samples as token ids with the answers marked, put side by side for a pass through the network."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from llama4_local.nano.training.data import SKILLS, Sample, mixture
from llama4_local.nano.training.forward import moved
from llama4sdk.prompting import PromptTemplate
from llama4sdk.prompting import special_tokens as names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Example:
    """A rendered sample.

    Args:
        skill: Its skill.
        token_ids: The whole conversation.
        answers: For each token, whether the model is to write it.
        tiles: [tiles, 3, side, side], uint8, of all its images in order.
    """

    skill: str
    token_ids: list[int]
    answers: list[bool]
    tiles: list[np.ndarray]


@dataclass(frozen=True, slots=True)
class Pass:
    """The input of one pass through the network: sequences padded on the right.

    Args:
        token_ids: [sequences, longest], int64.
        lengths: [sequences], int64.
        targets: [targets], int64: places, in the flattened token ids, of the tokens to be predicted.
        labels: [targets], int64: these tokens.
        weights: [targets], fp32: how much each counts.
        skills: The skill of each target, as an index.
        levels: [tiles, 3, side, side], uint8, or None.
    """

    token_ids: Tensor
    lengths: Tensor
    targets: Tensor
    labels: Tensor
    weights: Tensor
    skills: Tensor
    levels: Tensor | None

    @property
    def pixels(self) -> Tensor | None:
        """The images as the network takes them: fp32, -1 to 1."""
        return None if self.levels is None else (self.levels.float() / 255 - 0.5) / 0.5

    def to(self, device: torch.device) -> Pass:
        """Return the same with all that the loss needs on another device.

        Token ids and lengths stay: what goes where is worked out from them here, so that a GPU need not be
        waited for.
        """
        return Pass(
            self.token_ids,
            self.lengths,
            moved(self.targets, device),
            moved(self.labels, device),
            moved(self.weights, device),
            moved(self.skills, device),
            None if self.levels is None else moved(self.levels, device),
        )


class Batches(Protocol):
    """Makes the passes of a run's steps."""

    @property
    def seed(self) -> int:
        """Any whole number; another one gives other samples."""
        ...

    @property
    def skills(self) -> Sequence[str]:
        """The skills that losses are told by."""
        ...

    def batch(self, template: PromptTemplate, step: int) -> list[Pass]:
        """Return the passes of a step; the same for the same seed and step."""
        ...


@dataclass(frozen=True, slots=True)
class Mix:
    """Which samples a run learns from.

    Args:
        seed: Any whole number; another one gives other samples.
        samples: Conversations per step.
        rows: Most tokens in a pass.
        shares: Shares of skills to use in place of the usual ones.
    """

    seed: int
    samples: int
    rows: int
    shares: Mapping[str, float]

    @property
    def skills(self) -> Sequence[str]:
        """The skills that losses are told by."""
        return SKILLS

    def batch(self, template: PromptTemplate, step: int) -> list[Pass]:
        """Return the passes of a step; the same for the same seed and step."""
        source = mixture(self.seed * 1_000_003 + step, self.shares)
        examples = [render(template, sample) for sample in islice(source, self.samples)]
        return list(passes(examples, self.rows, SKILLS))


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
        own = [row * longest + place for place, marked in enumerate(example.answers) if marked]
        targets += own
        # A long set answer counts for more than a short one, but not in proportion to its length.
        weights += [len(own) ** -0.5] * len(own)
        kinds += [skills.index(example.skill)] * len(own)
    tiles = [tile for example in examples for tile in example.tiles]
    places = torch.tensor(targets)
    return Pass(
        token_ids,
        torch.tensor([len(example.token_ids) for example in examples]),
        places,
        token_ids.flatten()[places],
        torch.tensor(weights),
        torch.tensor(kinds),
        torch.from_numpy(np.concatenate(tiles)) if tiles else None,
    )
