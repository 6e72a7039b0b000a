"""The state of one request inside the engine, and the step that is in flight."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llama4_local.engine.scheduler import ScheduledChunk, Sequence

if TYPE_CHECKING:
    from llama4_local.decoding.detokenizer import Detokenizer
    from llama4_local.decoding.sampler import SamplerState
    from llama4_local.engine.image_features import ImageFeatures
    from llama4_local.engine.request import EngineRequest
    from llama4_local.engine.step_output import StepOutput
    from llama4sdk.events import Usage


@dataclass(slots=True, eq=False, kw_only=True)
class RequestState(Sequence):
    """A request under way: a sequence to the scheduler, and what its answer is made with.

    Args:
        request: What is asked.
        sampler_state: How its tokens are sampled.
        detokenizer: Turns its tokens into text and finds its end.
        images: Features of its images; None without any.
    """

    request: EngineRequest
    sampler_state: SamplerState
    detokenizer: Detokenizer
    images: ImageFeatures | None = None

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return replace(self.request.usage, cached_tokens=self.reused or 0)


RequestChunk = ScheduledChunk[RequestState]


@dataclass(frozen=True, slots=True)
class InFlightStep:
    """A launched step.

    Args:
        chunks: What it computes.
        due: Those whose next token it samples; the rows of `output`, in this order.
        output: Where the sampled tokens arrive.
        launched: When, by the engine's clock.
    """

    chunks: tuple[RequestChunk, ...]
    due: tuple[RequestChunk, ...]
    output: StepOutput
    launched: float
