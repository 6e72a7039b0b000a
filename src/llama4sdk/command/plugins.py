"""Commands that backends bring along: entry points in the group `llama4sdk.commands`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import TypeAlias, cast

from llama4sdk.errors import BackendMissing

GROUP = "llama4sdk.commands"
# Takes the arguments and returns the exit status.
Command: TypeAlias = Callable[[Sequence[str]], int]


def command_of(name: str) -> Command:
    """Return a backend's command.

    Raises:
        BackendMissing: None of that name is installed, or it cannot be imported.
    """
    points = list(entry_points(group=GROUP, name=name))
    if not points:
        raise BackendMissing(f"No installed backend has the command {name!r}; reinstall llama4sdk.")
    try:
        return cast("Command", points[0].load())
    except ImportError as error:
        raise BackendMissing(f"The command {name!r} needs {error.name}; pip install 'llama4sdk[local]'.") from error
