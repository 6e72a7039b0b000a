"""A scripted backend that, like a model, writes its tool calls as text."""

from __future__ import annotations

from llama4sdk import Capabilities
from llama4sdk.testing import ScriptedBackend


class Writes(ScriptedBackend):
    """Answers from a script; what looks like a call is left to the reader above the seam."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities("scripted", "script", seed=True)
