"""The part of an answer that its reader has: the beginning behind which another backend goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llama4sdk.events import Usage
from llama4sdk.surrogates import mended
from llama4sdk.worker_thread import run_in_daemon_thread

if TYPE_CHECKING:
    from llama4sdk.prompting import Tokenizer
    from llama4sdk.request import Request

_AT_ONCE = 2000  # characters that are counted on the event loop


class Shown:
    """Text and calls of an answer that went to its reader, and the tokens that it took so far.

    Args:
        request: The whole request.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self.texts: list[str] = []
        self.calls = False
        """Whether call events were shown, which no backend goes on with."""
        self._begun: list[int] = []  # of each try that broke off, the tokens that it had to go on from
        self._written = 0  # by all these tries, withdrawn ones too
        self._counted = 0  # of `texts`, those that are part of `_tokens`
        self._tokens = 0

    @property
    def anything(self) -> bool:
        """Whether the reader has anything of the answer."""
        return bool(self.texts) or self.calls

    @property
    def withdrawable(self) -> bool:
        """Whether the answer may begin anew: its calls or its typed form are of use as a whole only."""
        return self.calls or self._request.output is not None

    def withdraw(self) -> None:
        """Forget what was shown."""
        self.texts.clear()
        self.calls, self._counted, self._tokens = False, 0, 0

    async def interrupted(self, tokenizer: Tokenizer | None) -> None:
        """Count the tokens of a try that broke off after it had shown something.

        Args:
            tokenizer: Counts the tokens of the text; without one, each event of text counts as one.
        """
        new, self._counted = self.texts[self._counted :], len(self.texts)
        count = len(new) if tokenizer is None else await _count(tokenizer, mended("".join(new)))
        self._begun.append(self._tokens)
        self._tokens += count
        self._written += count

    def rest_of_request(self) -> Request | None:
        """Return the request for the rest of the answer; None when all its tokens are written."""
        request = self._request
        if not self.texts:
            return request
        sampling = request.sampling
        if sampling.max_tokens is not None:
            left = sampling.max_tokens - self._tokens
            if left < 1:
                return None
            sampling = replace(sampling, max_tokens=left, min_tokens=max(sampling.min_tokens - self._tokens, 0))
        else:
            sampling = replace(sampling, min_tokens=max(sampling.min_tokens - self._tokens, 0))
        begun = request.answer_so_far + mended("".join(self.texts))
        return replace(request, sampling=sampling, answer_so_far=begun)

    def complete(self, last: Usage | None) -> Usage | None:
        """Return the tokens of an answer that was shown to its end; `last` are those of its last try, where known."""
        return None if last is None else Usage(last.prompt_tokens, self._written, last.image_tokens)

    def summed(self, usage: Usage) -> Usage:
        """Return the tokens of all tries, the last one's being `usage`.

        The prompt of a try that broke off is that of the last one without the text that it had to go on from.
        """
        tries = len(self._begun)
        if not tries:
            return usage
        prompt = max(usage.prompt_tokens - self._tokens, 0)
        return usage + Usage(prompt * tries + sum(self._begun), self._written, usage.image_tokens * tries)


async def _count(tokenizer: Tokenizer, text: str) -> int:
    if len(text) <= _AT_ONCE:
        return len(tokenizer.encode(text))
    return len(await run_in_daemon_thread(lambda: tokenizer.encode(text)))
