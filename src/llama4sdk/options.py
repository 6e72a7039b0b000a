"""Keyword options that several methods of a client share, as their overloads name them.

`output` is not among them: its type is the type of the answer, so that each method has an overload for every kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, TypeVar

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from llama4sdk.request import Deadlines, Sampling, ToolChoice
    from llama4sdk.tools import ToolLike

# The type that `output=` asks for.
T = TypeVar("T")


class TurnOptions(TypedDict, total=False):
    """Options of `Session.stream` and `Session.chat`, each with a default."""

    tool_choice: ToolChoice
    sampling: Sampling | None
    deadlines: Deadlines | None
    priority: int


class StreamOptions(TurnOptions, total=False):
    """Options of `Llama4.stream`, each with a default."""

    tools: Sequence[ToolLike]
    cache_salt: str


class ChatOptions(TypedDict, total=False):
    """Options of `Llama4.chat`, each with a default."""

    tools: Sequence[ToolLike]
    tool_choice: ToolChoice
    repair: int
    sampling: Sampling | None
    deadlines: Deadlines | None


class MapOptions(TypedDict, total=False):
    """Options of `Llama4.map`, each with a default."""

    concurrency: int
    ordered: bool
    journal: str | os.PathLike[str] | None
    repair: int
    sampling: Sampling | None
    deadlines: Deadlines | None
    retries: int
    progress: bool | None
