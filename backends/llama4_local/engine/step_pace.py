"""How many prompt tokens a step takes beside decoding ones, so that no stream waits long for its next token."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4_local.engine.request_state import RequestChunk

_GOAL = (
    0.025  # seconds of a step with decoding sequences in it; a stream then waits less than 40 ms where one misses it
)
_FIRST = 256  # prompt tokens before any step was timed
_MOST = 2048  # beyond, a step gains little throughput on any device
_LEAST = 32  # so that prompts advance where a step is slow already
_GROWTH = 2  # times as many prompt tokens as in the step before, at most
_MEMORY = 0.7  # weight of earlier steps beside a faster one; a slower one counts at once


class StepPace:
    """Learns from the duration of steps; the longest share of prompts that still meets the goal is `tokens`.

    A step is taken to last as long as decoding alone, and so much more for each prompt token. Prompt tokens become
    slower as their context grows, so the last steps count most.

    Args:
        step_tokens: Most tokens of any step.
    """

    def __init__(self, step_tokens: int) -> None:
        self._most = min(_MOST, step_tokens)
        self._decoding: float | None = None
        self._per_token: float | None = None
        self.tokens = min(_FIRST, self._most)

    def observe(self, chunks: Sequence[RequestChunk], seconds: float) -> None:
        """Take the duration of a step into account."""
        prompts = sum(chunk.known for chunk in chunks if chunk.known > 1)
        if not prompts:
            self._decoding = _tended(self._decoding, seconds)
            return
        beside = self._decoding if self._decoding is not None and len(chunks) > 1 else 0.0
        self._per_token = _tended(self._per_token, max(seconds - beside, 0.0) / prompts)
        room = max(_GOAL - (self._decoding or 0.0), 0.0)
        fitting = int(room / self._per_token) if self._per_token else self._most
        self.tokens = min(max(fitting, _LEAST), _GROWTH * self.tokens, self._most)


def _tended(before: float | None, now: float) -> float:
    return now if before is None or now > before else _MEMORY * before + (1 - _MEMORY) * now
