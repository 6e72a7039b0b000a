"""The limits and options of a run of tools."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from llama4sdk.checks import check_number
from llama4sdk.errors import InvalidRequest
from llama4sdk.messages import ToolCall

if TYPE_CHECKING:
    from llama4sdk.request import Deadlines, Sampling, ToolChoice

Decision: TypeAlias = "bool | str | ToolCall"
Approve: TypeAlias = Callable[[ToolCall], "Decision | Awaitable[Decision]"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a run.

    Args:
        max_rounds: How often the model is asked at most.
        max_parallel: Calls of one reply that run at the same time.
        tool_timeout: Seconds for one call, where its tool does not say; None for no limit.
        max_result: Characters of a result that the model is shown, where its tool does not say.
        repair: How often a typed answer that does not fit may be tried again.
    """

    max_rounds: int = 10
    max_parallel: int = 8
    tool_timeout: float | None = 60.0
    max_result: int = 50_000
    repair: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("max_rounds", 1, 1000),
            ("max_parallel", 1, 1000),
            ("max_result", 1, 10**8),
            ("repair", 0, 5),
        ):
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise InvalidRequest(f"{name} is a whole number from {low} to {high}; got {value!r}.")
        check_number("tool_timeout", self.tool_timeout, 0, math.inf, above=True)


class RunOptions(TypedDict, total=False):
    """The options of `Llama4.run` and `run_stream`, each with a default.

    Args:
        tool_choice: For the first round; later ones are free.
        approve: Called before each call, one at a time, in a worker thread when it is no coroutine function:
            returns True to allow, False or a reason in words to refuse, another `ToolCall` to run that instead.
        max_rounds: See `Limits`, as the next four.
        max_parallel: See `Limits`.
        tool_timeout: See `Limits`.
        max_result: See `Limits`.
        repair: See `Limits`.
        on_tool_error: `tell` the model of a call that failed, or `raise` `ToolFailed`.
        sampling: Sampling parameters, in every round.
        deadlines: Seconds for each phase of a round; `total` spans the whole run.
    """

    tool_choice: ToolChoice
    approve: Approve | None
    max_rounds: int
    max_parallel: int
    tool_timeout: float | None
    max_result: int
    repair: int
    on_tool_error: Literal["tell", "raise"]
    sampling: Sampling | None
    deadlines: Deadlines | None


def limits_of(options: RunOptions) -> Limits:
    """Return the limits among a run's options.

    Raises:
        InvalidRequest: For one out of range.
    """
    given: dict[str, Any] = {each.name: options[each.name] for each in fields(Limits) if each.name in options}
    return Limits(**given)
