"""The data that nano learns from, made here at random: no text or image from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import Random

from llama4_local.nano.training.data.arithmetic import arithmetic
from llama4_local.nano.training.data.capitals import capitals
from llama4_local.nano.training.data.copying import copying
from llama4_local.nano.training.data.greetings import greeting
from llama4_local.nano.training.data.identity import identity, outside
from llama4_local.nano.training.data.json_answers import json_answer
from llama4_local.nano.training.data.recall import recall
from llama4_local.nano.training.data.sample import Exchange, Maker, Sample, Split, messages_of, split_of
from llama4_local.nano.training.data.scenes import several_images, single_image
from llama4_local.nano.training.data.tool_calls import no_call, tool_call, tool_result, two_calls
from llama4_local.nano.training.data.wording import system_text

__all__ = ["SKILLS", "Sample", "Split", "mixture", "samples"]

_Talk = Callable[[Random], tuple[list[Exchange], str]]
_BEFORE: tuple[_Talk, ...] = (arithmetic, capitals, greeting, identity, outside)


def _talk(skill: str, talk: _Talk, before: float) -> Maker:
    """Return a maker of dialogs that end with this kind of talk, now and then after some other talk."""

    def make(rng: Random) -> Sample:
        exchanges, key = talk(rng)
        while rng.random() < before:
            exchanges = [*rng.choice(_BEFORE)(rng)[0], *exchanges]
        return Sample(skill, messages_of(exchanges, system_text(rng)), key)

    return make


def _calls(rng: Random) -> Sample:
    return two_calls(rng) if rng.random() < 0.06 else tool_call(rng)


# Every skill with its share of the training samples.
_MAKERS: Mapping[str, tuple[Maker, float]] = {
    "pictures": (single_image, 0.18),
    "several pictures": (several_images, 0.14),
    "arithmetic": (_talk("arithmetic", arithmetic, 0.1), 0.07),
    "capitals": (_talk("capitals", capitals, 0.1), 0.03),
    "recall": (_talk("recall", recall, 0.0), 0.07),
    "greetings": (_talk("greetings", greeting, 0.1), 0.03),
    "identity": (_talk("identity", identity, 0.1), 0.03),
    "outside": (_talk("outside", outside, 0.1), 0.02),
    "copying": (_talk("copying", copying, 0.05), 0.06),
    "tool calls": (_calls, 0.14),
    "tool results": (tool_result, 0.03),
    "no tool needed": (no_call, 0.05),
    "json answers": (json_answer, 0.16),
}
SKILLS = tuple(_MAKERS)


def samples(seed: int, skill: str, split: Split = "train") -> Iterator[Sample]:
    """Yield samples of a skill without end; the same seed gives the same ones.

    Args:
        seed: Any whole number.
        skill: One of `SKILLS`.
        split: `test` yields only samples whose key (numbers, names, wording, layout) training never meets.
    """
    rng = Random(f"{seed} {skill} {split}")
    make, _ = _MAKERS[skill]
    while True:
        sample = make(rng)
        if sample.skill == skill and split_of(sample.key) == split:
            yield sample


def mixture(seed: int, shares: Mapping[str, float] | None = None) -> Iterator[Sample]:
    """Yield training samples of all skills without end, each skill with its share.

    Args:
        seed: Any whole number.
        shares: Shares to use in place of the usual ones, by skill.
    """
    rng = Random(f"{seed} mixture")
    weights = {skill: (shares or {}).get(skill, share) for skill, (_, share) in _MAKERS.items()}
    sources = {skill: samples(seed, skill) for skill in SKILLS}
    while True:
        yield next(sources[rng.choices(list(weights), list(weights.values()))[0]])
