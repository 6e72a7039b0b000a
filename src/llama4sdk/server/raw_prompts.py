"""Prompts of completion and tokenize requests, as token ids where the backend's tokenizer is known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from llama4sdk.backend import template_of
from llama4sdk.prompting.raw import raw_ids
from llama4sdk.prompting.special_tokens import BEGIN_OF_TEXT
from llama4sdk.server.failures import refused
from llama4sdk.worker_thread import run_in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llama4sdk.backend import Backend
    from llama4sdk.events import TokenLogprob
    from llama4sdk.prompting import Tokenizer

_INLINE = 4096  # characters or tokens that take a millisecond or two


@dataclass(frozen=True, slots=True)
class ReadPrompt:
    """A prompt.

    Args:
        raw: For the backend: token ids, or text where no tokenizer is known.
        text: As text.
        tokens: Number of tokens; 0 where it is unknown.
        added: Tokens at its beginning that are not in the text.
    """

    raw: str | tuple[int, ...]
    text: str
    tokens: int = 0
    added: int = 0

    def begins(self, scores: Sequence[TokenLogprob]) -> int:
        """Return how many of its scored tokens, at the beginning, are not in its text."""
        unread = isinstance(self.raw, str) and bool(scores) and not self.text.startswith(BEGIN_OF_TEXT)
        return int(scores[0].text == BEGIN_OF_TEXT) if unread else self.added


class RawPrompts:
    """Reads prompts with a backend's tokenizer.

    Args:
        backend: The backend.
    """

    def __init__(self, backend: Backend) -> None:
        self._tokenizer = _tokenizer_of(backend)

    async def read(self, prompt: str | tuple[int, ...], *, begin: bool = True) -> ReadPrompt:
        """Return a prompt with its text and its tokens.

        Args:
            prompt: Text, or token ids, which stay as they are.
            begin: Whether text begins with the model's begin token.

        Raises:
            InvalidRequest: The text is no text, or an id is not in the vocabulary.
            ApiError: Ids were given, and no tokenizer is known.
        """
        tokenizer = self._tokenizer
        if tokenizer is None:
            if isinstance(prompt, str):
                return ReadPrompt(prompt, prompt)
            raise refused("The backend of this server knows no tokenizer; send the prompt as text.", "prompt")
        return await _soon(len(prompt), partial(_read, tokenizer, prompt, begin))

    async def text(self, ids: Iterable[int]) -> str:
        """Return the text of token ids.

        Raises:
            InvalidRequest: An id is not in the vocabulary.
            ApiError: No tokenizer is known.
        """
        return (await self.read(tuple(ids))).text


def _tokenizer_of(backend: Backend) -> Tokenizer | None:
    template = template_of(backend)
    return template.tokenizer if template is not None else None


def _read(tokenizer: Tokenizer, prompt: str | tuple[int, ...], begin: bool) -> ReadPrompt:
    if not isinstance(prompt, str):
        return ReadPrompt(prompt, tokenizer.decode(prompt), len(prompt))
    ids = raw_ids(tokenizer, prompt, begin=False)
    first = raw_ids(tokenizer, "", begin=begin)
    added = 0 if ids[: len(first)] == first else len(first)
    return ReadPrompt((*first[:added], *ids), prompt, len(ids) + added, added)


async def _soon(size: int, work: partial[ReadPrompt]) -> ReadPrompt:
    return work() if size <= _INLINE else await run_in_daemon_thread(work)
