"""Cases as token ids with the verdict marked, through the chat template that serves them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from llama4_local.nano.training.batches import Example, passes
from llama4_local.nano.training.guard.data import KINDS, mixture
from llama4sdk.prompting import special_tokens as names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4_local.nano.training.batches import Pass
    from llama4_local.nano.training.guard.data import Case
    from llama4sdk.prompting import PromptTemplate


@dataclass(frozen=True, slots=True)
class GuardMix:
    """Which cases a run learns from.

    Args:
        seed: Any whole number; another one gives other cases.
        samples: Cases per step.
        rows: Most tokens in a pass.
        longest: Tokens beyond which a case is left out.
    """

    seed: int
    samples: int
    rows: int
    longest: int

    @property
    def skills(self) -> Sequence[str]:
        """The kinds of cases."""
        return KINDS

    def batch(self, template: PromptTemplate, step: int) -> list[Pass]:
        """Return the passes of a step; the same for the same seed and step."""
        source = mixture(self.seed * 1_000_003 + step)
        examples = [render(template, kind, case) for kind, case in islice(source, self.samples)]
        return list(passes([one for one in examples if len(one.token_ids) <= self.longest], self.rows, KINDS))


def render(template: PromptTemplate, kind: str, case: Case) -> Example:
    """Return a case as the model reads it, with the verdict behind it."""
    rendered = template.render(case.messages)
    tokenizer = template.tokenizer
    verdict = [*tokenizer.encode(case.verdict), tokenizer.special(names.EOT)]
    answers = [False] * len(rendered.token_ids) + [True] * len(verdict)
    tiles = [tiles.levels for tiles in rendered.tiles]
    return Example(kind, [*rendered.token_ids, *verdict], answers, tiles)
