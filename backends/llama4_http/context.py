"""The parts of a backend that one request needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama4_http.network import Link
    from llama4_http.profiles import Profile
    from llama4_http.settings import Settings
    from llama4sdk.prompting import PromptTemplate


@dataclass(frozen=True, slots=True)
class Context:
    """The server as one request sees it.

    Args:
        link: The connections.
        url: The server's address.
        profile: The server's kind.
        settings: The backend's choices.
        model: The model's name there; empty while unknown.
        template: Renders and counts prompts; None where the backend has no tokenizer.
    """

    link: Link = field(repr=False)
    url: str
    profile: Profile
    settings: Settings
    model: str
    template: PromptTemplate | None = field(default=None, repr=False)
