"""Which failures another backend may mend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, get_args

from llama4sdk.checks import shown
from llama4sdk.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LlamaError,
    Overloaded,
    ProtocolError,
    ServerFault,
    StreamInterrupted,
    Unreachable,
)

Action: TypeAlias = Literal["next", "raise"]
Policy: TypeAlias = Mapping[type[LlamaError], Action]

# Whether `retryable` or not: another backend may serve where this one has lost its device.
DEFAULT_POLICY: Final[Policy] = {
    Unreachable: "next",
    DeadlineExceeded: "next",
    Overloaded: "next",
    ServerFault: "next",
    ProtocolError: "next",
    StreamInterrupted: "next",
}


def checked_policy(policy: Policy | None) -> Policy:
    """Return the default policy with a caller's changes.

    Raises:
        InvalidRequest: For anything but error classes and actions.
    """
    for kind, action in (policy or {}).items():
        if not isinstance(kind, type) or not issubclass(kind, LlamaError):
            raise InvalidRequest(f"A policy maps classes of LlamaError to actions; got {shown(kind)}.")
        if action not in get_args(Action):
            raise InvalidRequest(f"An action is 'next' or 'raise'; got {shown(action)} for {kind.__name__}.")
    return {**DEFAULT_POLICY, **(policy or {})}


def action_for(error: LlamaError, policy: Policy) -> Action:
    """Return what follows an error: the entry of its nearest class, else `next` for one that may pass."""
    if isinstance(error, DeadlineExceeded) and error.phase == "total":
        return "raise"  # no time is left for another try
    for kind in type(error).__mro__:
        if kind in policy:
            return policy[kind]
    return "next" if error.retryable else "raise"


def tells_of_health(error: LlamaError) -> bool:
    """Return whether an error counts against the backend rather than against the request."""
    return isinstance(error, tuple(DEFAULT_POLICY)) and not (
        isinstance(error, DeadlineExceeded) and error.phase == "total"
    )
