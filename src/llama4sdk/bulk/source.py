"""The prompts, one after the other, out of whatever iterable they come in."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sized
from typing import Protocol, runtime_checkable

import anyio

from llama4sdk.errors import InvalidRequest
from llama4sdk.messages import Prompt


@runtime_checkable
class _Closes(Protocol):
    async def aclose(self) -> None: ...


class PromptSource(AsyncIterator[Prompt]):
    """Takes prompts only when asked for one.

    Args:
        prompts: Any iterable of prompts, endless too; one that has to wait for them is an async one.

    Raises:
        InvalidRequest: For a single prompt, or what is no iterable.
    """

    def __init__(self, prompts: Iterable[Prompt] | AsyncIterable[Prompt]) -> None:
        if isinstance(prompts, str | bytes | Mapping):
            raise InvalidRequest("map() takes many prompts; put a single one into a list, or ask it with chat().")
        if not isinstance(prompts, Iterable | AsyncIterable):
            raise InvalidRequest(f"map() takes an iterable of prompts, not {type(prompts).__name__}.")
        self.total = len(prompts) if isinstance(prompts, Sized) else None
        """How many prompts there are, when known."""
        self._prompts = prompts
        self._iterator: AsyncIterator[Prompt] | None = None

    async def __anext__(self) -> Prompt:
        if self._iterator is None:
            self._iterator = _iterate(self._prompts)
        return await anext(self._iterator)

    async def aclose(self) -> None:
        """Close an async generator, in the task that has read it; it is not read after this."""
        if isinstance(self._iterator, _Closes):
            with anyio.CancelScope(shield=True):
                await self._iterator.aclose()


class _Plain(AsyncIterator[Prompt]):
    """A plain iterable, read on the loop: a thread would take generators out of the thread they belong to."""

    def __init__(self, prompts: Iterable[Prompt]) -> None:
        self._prompts = iter(prompts)

    async def __anext__(self) -> Prompt:
        try:
            return next(self._prompts)
        except StopIteration:
            raise StopAsyncIteration from None


def _iterate(prompts: Iterable[Prompt] | AsyncIterable[Prompt]) -> AsyncIterator[Prompt]:
    if isinstance(prompts, AsyncIterable):
        return aiter(prompts)
    return _Plain(prompts)
