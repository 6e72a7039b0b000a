"""From the tokens of one answer to its text and its end; no tensor is involved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from llama4_local.config.invariant import BrokenInvariant
from llama4_local.decoding.stop_strings import StopStrings
from llama4sdk.events import FinishReason, TextDelta, TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llama4_local.decoding.sampler import ResolvedSampling, SampledToken


class Decoder(Protocol):
    """Turns token ids into whole characters as they come; the tokenizer's decoder is one."""

    def push(self, token_ids: Sequence[int], /) -> str:
        """Take ids and return the text that is certain."""
        ...

    def flush(self) -> str:
        """Return the text that was held back."""
        ...


class TextOf(Protocol):
    """The text of a few tokens on their own; part of a character shows as U+FFFD."""

    def __call__(self, token_ids: Sequence[int], /) -> str:
        """Return the text."""
        ...


class Decodes(Protocol):
    """The part of a tokenizer that the engine uses."""

    def decoder(self) -> Decoder:
        """Return a decoder for ids that come one after the other."""
        ...

    def decode(self, token_ids: Iterable[int], /) -> str:
        """Return the text of some ids on their own."""
        ...


class Detokenizer:
    """Turns one sequence's tokens into text deltas, up to its end.

    Special tokens other than those that end the answer come out as text, by their names: they are read above
    the seam.

    Args:
        sampling: Its stop tokens, and whether log-probabilities are reported.
        stops: Strings that end it.
        limit: Most tokens in it.
        decoder: Decodes its tokens.
        text_of: The text of a single token, for log-probabilities.
        written: A list that its tokens are appended to; those in it at the beginning were shown before.
    """

    def __init__(
        self,
        sampling: ResolvedSampling,
        stops: Sequence[str],
        limit: int,
        *,
        decoder: Decoder,
        text_of: TextOf,
        written: list[int] | None = None,
    ) -> None:
        self._sampling = sampling
        self._stops = StopStrings(stops)
        self._shown = self._hold_back(text_of(written)) if written and stops else 0
        self._limit = limit
        self._decoder = decoder
        self._text_of = text_of
        self._logprobs: list[TokenLogprob] = []
        self.written: list[int] = [] if written is None else written

    def add(self, sampled: SampledToken) -> tuple[TextDelta | None, FinishReason | None]:
        """Take the next token; return new text, if any, and the finish reason at the end.

        Raises:
            BrokenInvariant: There is no token.
        """
        token = sampled.token
        if token is None:
            raise BrokenInvariant("an unusable token cannot be part of an answer")
        self.written.append(token)
        if token in self._sampling.stop_ids:
            return self._delta(self._decoder.flush(), "stop")
        if sampled.logprob is not None:
            self._logprobs.append(self._report(token, sampled))
        reason: FinishReason | None = "length" if len(self.written) >= self._limit else None
        text = self._decoder.push([token])
        return self._delta(text + self._decoder.flush() if reason else text, reason)

    def _delta(self, text: str, reason: FinishReason | None) -> tuple[TextDelta | None, FinishReason | None]:
        text, stopped = self._stops.push(text, armed=len(self.written) >= self._sampling.min_tokens)
        if stopped:
            reason = "stop"
        elif reason:
            text += self._stops.flush()
        if self._shown:
            self._shown, text = max(self._shown - len(text), 0), text[self._shown :]
        if not text and not (reason == "length" and self._logprobs):
            return None, reason
        logprobs, self._logprobs = tuple(self._logprobs), []
        return TextDelta(text, logprobs), reason

    def _hold_back(self, shown: str) -> int:
        """Take text that was shown before; return how much of it may begin a stop string, so that it comes again."""
        certain, _ = self._stops.push(shown, armed=False)
        return len(shown) - len(certain)

    def _report(self, token: int, sampled: SampledToken) -> TokenLogprob:
        top = tuple(TokenLogprob(self._text_of([other]), score, other) for other, score in sampled.top)
        return TokenLogprob(self._text_of([token]), sampled.logprob or 0.0, token, top)
