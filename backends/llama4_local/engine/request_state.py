"""The state of one request inside the engine, and the step that is in flight."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llama4_local.engine.scheduler import ScheduledChunk, Sequence

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from llama4_local.decoding.detokenizer import Detokenizer
    from llama4_local.decoding.sampler import SamplerState
    from llama4_local.engine.drafting import Drafting
    from llama4_local.engine.image_features import ImageFeatures
    from llama4_local.engine.request import EngineRequest
    from llama4_local.engine.step_output import StepOutput, UnsampledOutput
    from llama4sdk.events import Usage


@dataclass(slots=True, eq=False, kw_only=True)
class RequestState(Sequence):
    """A request under way: a sequence to the scheduler, and what its answer is made with.

    Args:
        request: What is asked.
        sampler_state: How its tokens are sampled.
        detokenizer: Turns its tokens into text and finds its end.
        images: Features of its images; None without any.
        drafting: Drafts its next tokens; None where it does not speculate.
    """

    request: EngineRequest
    sampler_state: SamplerState
    detokenizer: Detokenizer
    images: ImageFeatures | None = None
    drafting: Drafting | None = None

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
        due: Those whose next token it samples, in the order of the output's rows: one for each, and one for each
            drafted token.
        output: Where the sampled tokens arrive.
        launched: When, by the engine's clock.
    """

    chunks: tuple[RequestChunk, ...]
    due: tuple[RequestChunk, ...]
    output: StepOutput | UnsampledOutput
    launched: float


def sampled_rows(chunks: Iterable[RequestChunk], due: Collection[RequestChunk]) -> tuple[list[int], list[SamplerState]]:
    """Return the rows of a step behind which tokens are sampled, and the state of each."""
    rows: list[int] = []
    states: list[SamplerState] = []
    end = 0
    for chunk in chunks:
        end += chunk.count
        if chunk in due:
            rows += range(end - 1 - len(chunk.drafted), end)
            own = chunk.sequence.sampler_state
            states += [own.behind(chunk.drafted[:place]) for place in range(len(chunk.drafted) + 1)]
    return rows, states
