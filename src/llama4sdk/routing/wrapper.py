"""The base of wrappers around several backends: their life, and the features that they show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4sdk.routing.members import Members

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4sdk.backend import Backend, Capabilities
    from llama4sdk.prompting import PromptTemplate
    from llama4sdk.routing.breaker import Breaker


class Wrapper:
    """A backend that holds backends.

    Args:
        backends: The backends, or strings that name them.
        name: The wrapper's name.
        breaker: When a backend rests; None for the default.

    Raises:
        BackendMissing: For a name that stands for no backend.
        InvalidRequest: Without a backend.
    """

    def __init__(self, backends: Sequence[Backend | str], name: str, breaker: Breaker | None = None) -> None:
        self._members = Members(backends, name, breaker)

    @property
    def members(self) -> Members:
        """The backends, with their health and their load."""
        return self._members

    @property
    def capabilities(self) -> Capabilities:
        """The features of at least one backend; promises about answers only where all keep them."""
        return self._members.capabilities

    @property
    def prompt_template(self) -> PromptTemplate:
        """The template of the first backend that has one.

        Raises:
            InvalidRequest: When none has.
        """
        return self._members.prompt_template

    async def start(self) -> None:
        """Start all backends; one that can never serve is left out.

        Raises:
            LlamaError: When none can serve.
        """
        await self._members.start()

    async def aclose(self) -> None:
        """Close all backends, once every client that started this one has closed it; may be called twice."""
        await self._members.aclose()
