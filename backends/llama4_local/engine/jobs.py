"""What the engine has under way: requests, and the step that was launched for some of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama4sdk.events import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llama4_local.decoding.detokenizer import Detokenizer
    from llama4_local.decoding.sampler import SampledToken, SamplerState
    from llama4_local.engine.image_features import ImageFeatures
    from llama4_local.engine.model_runner import StepOutput
    from llama4_local.engine.request import EngineRequest
    from llama4_local.engine.scheduler import ScheduledChunk, Sequence


@dataclass(slots=True, eq=False)
class Job:
    """A request inside the engine."""

    order: EngineRequest
    sequence: Sequence
    chooser: SamplerState
    answer: Detokenizer
    images: ImageFeatures | None

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(
            prompt_tokens=len(self.order.token_ids),
            completion_tokens=len(self.answer.written),
            image_tokens=self.order.image_tokens,
            cached_tokens=self.sequence.reused or 0,
        )


@dataclass(frozen=True, slots=True)
class InFlightStep:
    """A step that was launched.

    Args:
        pieces: What it computes.
        sampling: Those whose next token is due.
        landing: Where the tokens come from; None where they are there already.
        chosen: The tokens, where they are there already.
    """

    pieces: tuple[ScheduledChunk, ...]
    sampling: tuple[ScheduledChunk, ...]
    landing: StepOutput | None = None
    chosen: tuple[SampledToken, ...] = ()

    @property
    def feeds(self) -> bool:
        """Whether the next step can go on from its tokens before the host has seen them."""
        return self.landing is not None and self.landing.feeds

    def result(self) -> Iterable[SampledToken]:
        """Wait for the tokens."""
        return self.chosen if self.landing is None else self.landing.result()
