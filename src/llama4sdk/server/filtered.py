"""A stream that ends with the finish reason `content_filter` where a guard blocks it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama4sdk.errors import GuardBlocked
from llama4sdk.events import Done
from llama4sdk.stream import Stream

if TYPE_CHECKING:
    from llama4sdk.events import Event


class FilteredStream(Stream[Any]):
    """The events of one request, as a client of the server gets them: a block is an end, as in OpenAI's API."""

    def _at_end(self) -> Event:
        if isinstance(self._production.failure, GuardBlocked):
            return Done("content_filter", self.snapshot.usage)
        return super()._at_end()
